"""The definition of every router in plain PyTorch: the fallback, and the oracle of every test."""

from mpkernels.eager.cross_predict import CrossPredictConv2d, CrossPredictLinear
from mpkernels.eager.functional import combine, cross_connect, gate, mix, pool
from mpkernels.eager.modules import CrossConnect, CrossStitch

__all__ = [
    "CrossConnect",
    "CrossPredictConv2d",
    "CrossPredictLinear",
    "CrossStitch",
    "combine",
    "cross_connect",
    "gate",
    "mix",
    "pool",
]
