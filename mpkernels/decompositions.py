"""The operators in PyTorch's own, for programs that run where there is no `mpkernels`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpkernels.ops.internals import is_recording_a_graph, register_decomposition
from mpkernels.ops.operator import OPERATORS, Operator


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


def _of_table(operator: Operator) -> Callable[..., Any]:
    # PyTorch's table serves two: torch.onnx.export, which records what cannot be translated, and
    # fake tensors of symbolic sizes, for which the fake kernel is quicker and makes no guards.
    def decomposition(*arguments: Any) -> Any:
        return (operator.run_eager if is_recording_a_graph() else operator.fake)(*arguments)

    return decomposition


for _operator in OPERATORS.values():
    register_decomposition(_operator.overload)(_of_table(_operator))
