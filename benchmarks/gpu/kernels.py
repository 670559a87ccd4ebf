"""Whether the report's launches reach every kernel of the package."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proof.launches import KERNELS


def never_launched(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Kernels that no row has run to its end."""
    launched = {kernel for row in rows for kernel in row.get("kernels", ())}
    return [name for name in KERNELS if name not in launched]
