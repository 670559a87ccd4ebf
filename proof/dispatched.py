"""A record of the operators that a piece of code runs."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Dispatched(TorchDispatchMode):
    """Records the names of all operators that the dispatcher runs within it, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))

    def count(self, part):
        """How many operators have `part` in their names."""
        return sum(part in name for name in self.names)
