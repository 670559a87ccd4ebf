"""The definition of every router in plain PyTorch: the fallback, and the oracle of every test."""

from mpkernels.eager.functional import combine, cross_connect, gate, mix, pool
from mpkernels.eager.modules import CrossConnect, CrossStitch

__all__ = ["CrossConnect", "CrossStitch", "combine", "cross_connect", "gate", "mix", "pool"]
