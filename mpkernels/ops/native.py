"""Loads the compiled libraries, and remembers why one is missing."""

from __future__ import annotations

import warnings

import torch

from mpkernels.ops.record import build_record as build_record
from mpkernels.ops.record import path_of, why_unusable

_REINSTALL = "Reinstall with a C++20 compiler: pip install --no-build-isolation mpkernels"


def _built_for() -> str:
    record = build_record()
    platform, built, least = (
        record.get(key, "unknown") for key in ("platform", "torch", "torch_minimum")
    )
    return f"it was built on {platform} with torch {built} for torch >= {least}"


def _load(name: str) -> str | None:
    """Loads the library and returns None, or returns why it cannot."""
    if reason := why_unusable(name):
        return reason
    path = path_of(name)
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name} does not load into torch {torch.__version__}: {error}; {_built_for()}"
    return None


def _load_cuda() -> str | None:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    return _load("_C_cuda")


why_no_cpu = _load("_C")
why_no_cuda = _load_cuda()

if why_no_cpu is not None:
    warnings.warn(
        f"mpkernels runs on its eager definition, which is several times slower: {why_no_cpu}. "
        f"{_REINSTALL}",
        RuntimeWarning,
        stacklevel=2,
    )
# A machine without nvcc builds none, which is no news; one that is there and damaged is.
elif torch.version.cuda is not None and path_of("_C_cuda").exists() and why_no_cuda is not None:
    warnings.warn(
        f"mpkernels runs without its CUDA C++ kernels: {why_no_cuda}. {_REINSTALL}",
        RuntimeWarning,
        stacklevel=2,
    )
