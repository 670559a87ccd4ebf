"""The second name that this package has in a checkout: `models`, for the very same modules."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType

NAME = "models"
PACKAGE = sys.modules[__package__]


class _Same(Loader):
    """Loads a module under its second name: what is imported is the module of the first."""

    def __init__(self, spec: ModuleSpec) -> None:
        self.spec = spec

    def exec_module(self, module: ModuleType) -> None:
        # The import system returns what is here, and leaves the spec of that module as it is.
        sys.modules[module.__name__] = import_module(self.spec.name)

    def get_code(self, name: str) -> CodeType | None:
        """For `python -m models.train`."""
        loader = self.spec.loader
        return loader.get_code(self.spec.name) if isinstance(loader, InspectLoader) else None


class _Finder(MetaPathFinder):
    """Finds `models.X` in `mpkernels.models`, as long as `models` is this package."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(f"{NAME}.") or sys.modules.get(NAME) is not PACKAGE:
            return None
        known = find_spec(PACKAGE.__name__ + name.removeprefix(NAME))
        if known is None:
            return None
        spec = ModuleSpec(name, _Same(known), origin=known.origin)
        spec.submodule_search_locations = known.submodule_search_locations
        return spec


def share() -> None:
    """Makes `models` this package, from now on."""
    sys.modules[NAME] = PACKAGE
    # Before the finder of files, which would load each of them a second time.
    sys.meta_path.insert(0, _Finder())
