"""The definition of every router in plain PyTorch: the fallback, and the oracle of every test."""

from mpkernels.eager.cross_prediction import CrossPredictConv2d, CrossPredictLinear
from mpkernels.eager.functional import combine, cross_connect, cross_predict, gate, mix, pool
from mpkernels.eager.modules import CrossConnect, CrossStitch

__all__ = [
    "CrossConnect",
    "CrossPredictConv2d",
    "CrossPredictLinear",
    "CrossStitch",
    "combine",
    "cross_connect",
    "cross_predict",
    "gate",
    "mix",
    "pool",
]
