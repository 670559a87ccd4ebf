"""A C++ loop over the bytes of a kernel that computes nothing: what a kernel could reach."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@cache
def loops() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Both loops, compiled for this processor at the first call; None without a compiler.

    One takes reads, writes and whether stores go around the cache; the other what is read first,
    sample by sample, then reads and writes.
    """
    from torch.utils.cpp_extension import load

    # A folder of each torch: their builds lock the folder in ways that others wait for in vain.
    version = "".join(c if c.isalnum() else "_" for c in torch.__version__)
    try:
        load(
            f"mpkernels_floor_{version}",
            [str(HERE / "floor.cpp")],
            extra_cflags=[
                "-O3", "-std=c++20", "-march=native", "-DMPK_NAMESPACE=native",
                "-DTORCH_TARGET_VERSION=0x020b000000000000",
            ],
            extra_include_paths=[str(ROOT / "csrc")],
            is_python_module=False,
        )  # fmt: skip
    except (OSError, RuntimeError) as error:
        print(f"the plain loops are left out: {str(error).splitlines()[0]}", flush=True)
        return None
    made = torch.ops.mpkernels_floor
    return made.stream_floor, made.two_pass_floor
