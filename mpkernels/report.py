"""What was built, found and loaded here; then a self-test.

The self-test is of every backend that works here, or of one alone.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from mpkernels import selftest
from mpkernels.ops import native, nodes
from mpkernels.ops.backend import BACKENDS, DEVICES, why_no_gpu, why_not_here
from mpkernels.version import __version__

NONE = "none"


def _listed(values: list[str] | str) -> str:
    parts = values.split(",") if isinstance(values, str) else values
    return ", ".join(part for part in parts if part) or NONE


def _triton_version() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torch_version() -> str:
    toolkit = torch.version.cuda or torch.version.hip
    kind = "CUDA" if torch.version.cuda else "ROCm"
    return f"{torch.__version__} ({kind} {toolkit})" if toolkit else torch.__version__


def _gpus() -> str:
    if reason := why_no_gpu():
        return f"{NONE}: {reason}"
    names = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        architecture = getattr(properties, "gcnArchName", "")
        architecture = architecture or f"sm_{properties.major}{properties.minor}"
        names.append(f"{properties.name} ({architecture}, {memory:.0f} GiB)")
    return ", ".join(names)


def versions() -> Iterator[tuple[str, str]]:
    """What runs here."""
    yield "mpkernels", __version__
    yield "python", platform.python_version()
    yield "torch", _torch_version()
    yield "triton", _triton_version()
    yield "system", f"{platform.system()} {platform.machine()}"
    yield "CPU threads", str(torch.get_num_threads())
    yield "GPUs", _gpus()


def build() -> Iterator[tuple[str, str]]:
    """What was compiled, as build.json has it, and what this processor uses of it."""
    record = native.build_record()
    if not record:
        yield "built", "unknown: no build.json to read"
        return
    compiled = [] if "_C" in record.get("missing", {}) else record.get("instruction_sets", [])
    yield "built against torch", record.get("torch", "unknown")
    yield "needs torch", f">= {record['torch_minimum']}" if "torch_minimum" in record else "unknown"
    yield "compiler", record.get("compiler") or "unknown"
    yield "compiler flags", record.get("compiler_flags") or "unknown"
    yield "CPU instructions compiled", _listed(compiled)
    used = torch.ops.mpkernels.instruction_set("") if native.why_no_cpu is None else NONE
    yield "CPU instructions used", used
    yield "CUDA architectures", _listed(record.get("cuda_architectures", ""))


def libraries() -> Iterator[tuple[str, str]]:
    """Which compiled parts are loaded, and why not the others."""
    yield "library _C (CPU)", native.why_no_cpu or "loaded"
    yield "library _C_cuda", native.why_no_cuda or "loaded"
    yield "module _nodes", nodes.why_none or "loaded"


def backends() -> Iterator[tuple[str, str]]:
    """Which backend works on which device, and why not the others."""
    for name in sorted(BACKENDS):
        for device in DEVICES:
            reason = why_not_here(name, device)
            yield f"{name} on {device}", f"no: {reason}" if reason else "works"


def report() -> str:
    """All of it as aligned `key: value` lines."""
    entries = [*versions(), *build(), *libraries(), *backends()]
    width = max(len(key) for key, _ in entries) + 1
    return "\n".join(f"{key + ':':<{width}} {value}" for key, value in entries)


def main(arguments: list[str] | None = None) -> int:
    """Prints the report and the self-test; returns 0 only if every check passed."""
    installed = Path(sys.argv[0]).name == "mpkernels"
    parser = argparse.ArgumentParser(
        prog="mpkernels report" if installed else "python -m mpkernels", description=__doc__,
        epilog="example: %(prog)s --self-test eager; `mpkernels` lists the other commands",
    )  # fmt: skip
    parser.add_argument(
        "--self-test", choices=selftest.BACKENDS, metavar="BACKEND",
        help="only the self-test, of one backend: " + ", ".join(selftest.BACKENDS),
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.self_test:
        return 0 if selftest.run([options.self_test]) else 1
    print(report())
    print()
    return 0 if selftest.run(selftest.BACKENDS) else 1
