"""Which backend runs where on this machine, and why the others do not."""

from __future__ import annotations

import torch

from mpkernels.ops import backend, native

DEVICES = ("cpu", "cuda")
NEEDS_INTERPRETER = "needs a GPU, or TRITON_INTERPRET=1 set before triton is imported"


def why_no_gpu() -> str | None:
    """Why torch reaches no GPU here, or None."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is not built for GPUs"
    return None if torch.cuda.is_available() else "torch finds no GPU"


def why_no_kernel(name: str, device: str) -> str | None:
    """Why the backend has no kernel for tensors on `device`, GPU present or not; None if it has."""
    if name == "eager":
        return None
    if device not in DEVICES:
        return f"no kernel exists for {device} tensors"
    if name == "native":
        return native.why_no_cpu if device == "cpu" else native.why_no_cuda
    reason = backend.why_no_triton()
    if reason is None and device == "cpu":
        return backend.why_no_interpreter() if backend.triton_interprets() else NEEDS_INTERPRETER
    return reason


def why_not(name: str, device: str) -> str | None:
    """Why the backend cannot run on `device` of this machine, or None if it can."""
    reason = why_no_kernel(name, device)
    return reason or (why_no_gpu() if device == "cuda" else None)
