"""The answer of `explain`, and how it reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """One direction of an operator, with dense incoming gradients and every gradient wanted.

    Bytes are those of feature maps: gates [B, m, n], pooled values [B, m, C] and parameters are
    not counted.
    """

    # Kernels on a GPU, operators of the C++ library on CPU; None: one per PyTorch operator.
    launches: int | None
    floor: int  # bytes if every map is read once and written once
    moved: int  # the floor and copies; for the eager definition, about what its operators move
    again: int = 0  # bytes read once more, from a cache while the samples in flight fit there

    def __str__(self) -> str:
        launches = "a launch for every PyTorch operator"
        if self.launches is not None:
            launches = f"{self.launches} launch" + ("es" if self.launches != 1 else "")
        if not self.moved:
            return f"{launches}, no maps"
        text = f"{launches}, {readable(self.moved)} moved, floor {readable(self.floor)}"
        return text + (f", {readable(self.again)} read again from cache" if self.again else "")


@dataclass(frozen=True)
class Step:
    """What a router runs before or after the operator that it is explained by."""

    name: str  # "gate", "predict", "norms"
    what: str
    forward: Cost | None = None  # None: PyTorch's own kernels, which nobody counts here
    backward: Cost | None = None

    def __str__(self) -> str:
        costs = [str(self.forward)] if self.forward else []
        costs += [f"backward {self.backward}"] if self.backward else []
        return "; ".join([self.what, *costs])


@dataclass(frozen=True)
class Explanation:
    """The answer of `explain`; `str` of it is meant to be read."""

    operator: str  # "cross_connect", "mix" or "combine"
    device: str
    backend: str  # "native", "triton" or "eager"
    # On GPUs, by Triton: "resident", "streamed", "split"; by CUDA C++: "shared", "cluster".
    method: str | None
    instruction_set: str | None  # of the C++ kernels on CPU
    forward: Cost
    backward: Cost
    notes: tuple[str, ...]  # why not a faster one
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()

    def __str__(self) -> str:
        detail = self.method or self.instruction_set
        backend = "CUDA C++" if self.method in ("shared", "cluster") else self.backend
        kernel = backend + (f" ({detail})" if detail else "")
        lines = [
            *((step.name, step) for step in self.before),
            ("forward", self.forward),
            ("backward", self.backward),
            *((step.name, step) for step in self.after),
        ]
        head = f"{self.operator} on {self.device}: {kernel}"
        body = [f"  {f'{name}:':<9} {text}" for name, text in lines]
        return "\n".join([head, *body, *(f"  note: {note}" for note in self.notes)])


def readable(count: int) -> str:
    """A number of bytes as people read it."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
