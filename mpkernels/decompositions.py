"""The operators in PyTorch's own, for programs that run where there is no `mpkernels`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpkernels.ops.imports import when_imported
from mpkernels.ops.internals import ONNX_EXPORTER, ONNX_TABLE
from mpkernels.ops.operator import OPERATORS


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The decomposition of every operator of this package, for exported programs.

    What it leaves is PyTorch's: no operator of `mpkernels`, so the program runs, is converted or is
    quantized where this package is not installed, in the definition's time.

    Returns:
        `torch.ops.mpkernels` overload -> function, as `run_decompositions` of an exported program
        takes them. To decompose PyTorch's operators too, join it to its own table:
        `{**torch.export.default_decompositions(), **mpkernels.decompositions()}`.

    Example:
        >>> router, x = CrossConnect(4, inputs=1, outputs=2).eval(), torch.randn(2, 4)
        >>> program = torch.export.export(router, (x,)).run_decompositions(decompositions())
        >>> "mpkernels" in str(program.graph)
        False
    """
    return {operator.overload: operator.run_eager for operator in OPERATORS.values()}


def _join_to_onnx(exporter: Any) -> None:
    table = getattr(exporter, ONNX_TABLE, None)
    if table is not None:
        setattr(exporter, ONNX_TABLE, lambda *given: {**decompositions(), **table(*given)})


# Not by PyTorch's global table, which torch.onnx.export reads too: Inductor takes an operator of
# that table for one that it should decompose, and refuses to call it where CI=true.
when_imported(ONNX_EXPORTER, _join_to_onnx)
