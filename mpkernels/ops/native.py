"""Loads the compiled libraries, and remembers why one is missing."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

_PACKAGE = Path(__file__).resolve().parents[1]


def build_record() -> dict[str, Any]:
    """What the libraries were built for, from build.json; empty where nothing was built."""
    path = _PACKAGE / "build.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _built_for() -> str:
    record = build_record()
    if not record:
        return "no build record was found"
    return (
        f"it was built on {record['platform']} with torch {record['torch']} "
        f"for torch >= {record['torch_minimum']}"
    )


def _load(name: str) -> str | None:
    """Loads the library and returns None, or returns why it cannot."""
    path = _PACKAGE / f"{name}.so"
    if not path.exists():
        reason = build_record().get("missing", {}).get(name)
        return f"{path.name} is not there" + (f": {reason}" if reason else "")
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
        "Reinstall with a C++20 compiler: pip install --no-build-isolation mpkernels",
        RuntimeWarning,
        stacklevel=2,
    )
