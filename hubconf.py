"""The networks for torch.hub: `torch.hub.load(folder, "resnet20_3_cc", source="local")`.

Options are those of `mpkernels.models.create`, `pretrained=path` too. Where the package is not
installed, and its kernels therefore not built, the networks warn once and run on the eager
definition.
"""

# Names without an underscore are what torch.hub offers.
from collections.abc import Callable as _Callable
from typing import Any as _Any

from torch.nn import Module as _Module

from mpkernels.models import create as _create
from mpkernels.models import list as _list
from mpkernels.models import options as _options
from mpkernels.models.networks.registry import about as _about

dependencies = ["torch", "torchvision"]


def _entry(name: str) -> _Callable[..., _Module]:
    def entry(**options: _Any) -> _Module:
        return _create(name, **options)

    known = ", ".join(f"{option}={default!r}" for option, default in _options(name).items())
    entry.__name__ = name
    entry.__doc__ = f"{_about(name)}\n\nOptions: {known}, pretrained=None (path of a checkpoint)."
    return entry


globals().update({_name: _entry(_name) for _name in _list()})
