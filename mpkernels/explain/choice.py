"""Which backend the dispatcher takes, in which dtype, and what keeps it from a faster one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mpkernels import modules
from mpkernels.availability import why_no_kernel
from mpkernels.ops import native
from mpkernels.ops.backend import why_no_native_on_cuda
from mpkernels.ops.switch import active_backend

_FUSED = (
    modules.CrossConnect,
    modules.CrossPredictConv2d,
    modules.CrossPredictLinear,
    modules.CrossStitch,
)


def choose(router: torch.nn.Module, device: str, operators: Sequence[str]) -> tuple[str, list[str]]:
    """The backend of the router's operators for tensors on `device`, and why not a faster one."""
    if not isinstance(router, _FUSED):
        return "eager", ["the router is eager; mpkernels.fuse(model) swaps in the fused one"]
    forced = active_backend()
    if forced != "auto":
        notes = [f"use_backend({forced!r}) is in force"]
        if reason := why_no_kernel(forced, device):
            notes.append(f"it cannot run on {device} tensors, a call raises RuntimeError: {reason}")
        elif (forced, device) == ("native", "cuda"):
            notes += _missing_on_cuda(operators)
        return forced, notes
    wanted = {"cpu": "native", "cuda": "triton"}.get(device, "eager")
    if wanted == "eager":
        return wanted, [f"no kernel exists for {device} tensors; only CPU and CUDA have one"]
    reason = why_no_kernel(wanted, device)
    return ("eager", [f"{wanted} cannot run: {reason}"]) if reason else (wanted, [])


def _missing_on_cuda(operators: Sequence[str]) -> list[str]:
    """Of a router's operators the first that CUDA C++ lacks."""
    for name in operators:
        if reason := why_no_native_on_cuda(name):
            who = "its backward" if name.endswith("_backward") else "a call"
            return [f"{who} raises RuntimeError: {reason}"]
    return []


def autocast_dtype(x: Tensor, device: str) -> torch.dtype:
    """The dtype in which the operators see x on `device`."""
    if device not in ("cpu", "cuda") or x.dtype == torch.float64:
        return x.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def instruction_set(backend: str, device: str) -> str | None:
    """That of the C++ kernels, where these would run."""
    if backend != "native" or device != "cpu" or native.why_no_cpu is not None:
        return None
    return str(torch.ops.mpkernels.instruction_set(""))
