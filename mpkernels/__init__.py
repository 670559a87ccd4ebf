"""Fused kernels for data-dependent routing in multi-path neural networks."""

from mpkernels import eager, functional
from mpkernels import flops as flops  # tells torch's counter
from mpkernels.decompositions import decompositions
from mpkernels.explain import explain
from mpkernels.fuse import fuse, unfuse
from mpkernels.modules import CrossConnect, CrossPredictConv2d, CrossPredictLinear, CrossStitch
from mpkernels.ops.switch import use_backend
from mpkernels.record import record
from mpkernels.route import route
from mpkernels.tune import tune
from mpkernels.version import __version__

__all__ = [
    "CrossConnect",
    "CrossPredictConv2d",
    "CrossPredictLinear",
    "CrossStitch",
    "__version__",
    "decompositions",
    "eager",
    "explain",
    "functional",
    "fuse",
    "record",
    "route",
    "tune",
    "unfuse",
    "use_backend",
]
