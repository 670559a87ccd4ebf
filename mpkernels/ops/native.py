"""Loads the compiled libraries, and remembers why one is missing."""

from __future__ import annotations

import ctypes
import os
import shlex
import sys
import warnings
from pathlib import Path

import torch

from mpkernels.ops.record import PACKAGE, path_of, why_unusable
from mpkernels.ops.record import build_record as build_record


def advice() -> str:
    """What to do about a part that is missing or damaged here."""
    tree = PACKAGE.parent
    if not (tree / "csrc").is_dir():
        return (
            "Install mpkernels anew with a C++20 compiler, in its checkout: "
            "pip install --force-reinstall --no-deps --no-build-isolation ."
        )
    build = f"pip install --no-build-isolation -e {shlex.quote(str(tree))}"
    for folder in map(Path, sys.path):
        installed = (folder / "mpkernels").resolve()
        if installed != PACKAGE and os.path.exists(installed / "_C.so"):
            return (
                f"This is the source tree {tree}, and not the mpkernels installed in {folder}: "
                f"run in another folder to use that one, or build the tree: {build}"
            )
    return f"This is the source tree {tree}: build it with a C++20 compiler: {build}"


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


def _driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver knows, or None where there is none; touches no GPU."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed else (version.value // 1000, version.value % 1000 // 10)


def _why_old_driver() -> str | None:
    """Why the driver runs nothing that the CUDA library holds, or None.

    The library brings CUDA's runtime along: it runs on every driver of its major version or newer.
    """
    built_for, driver = build_record().get("cuda_toolkit", ""), _driver_version()
    major = built_for.partition(".")[0]
    if driver is None or not major.isdigit() or driver[0] >= int(major):
        return None
    found = ".".join(map(str, driver))
    return f"CUDA driver {found} is older than the CUDA {built_for} that the library was built for"


def _load_cuda() -> str | None:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    return _why_old_driver() or _load("_C_cuda")


why_no_cpu = _load("_C")
why_no_cuda = _load_cuda()

if why_no_cpu is not None:
    warnings.warn(
        f"mpkernels runs on its eager definition, which is several times slower: {why_no_cpu}. "
        f"{advice()}",
        RuntimeWarning,
        stacklevel=2,
    )
# A machine without nvcc builds none, which is no news; one that is there and damaged is.
elif torch.version.cuda is not None and path_of("_C_cuda").exists() and why_no_cuda is not None:
    warnings.warn(
        f"mpkernels runs without its CUDA C++ kernels: {why_no_cuda}. {advice()}",
        RuntimeWarning,
        stacklevel=2,
    )
