"""What resources nvcc gave the CUDA C++ kernels: `python -m benchmarks.gpu.resources`.

Prints cuobjdump's report of the library as docs/internals/kernels.md shows it. Dynamic shared
memory is chosen by the launch; mpkernels/ops/onchip.py counts it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from mpkernels.ops import native

LIBRARY = Path(native.__file__).parents[1] / "_C_cuda.so"
KERNELS = ("cross_connect_kernel", "cross_connect_backward_kernel", "gate_weights_kernel")
HEAD = ("kernel", "variants", "architecture", "registers", "stack", "spilled", "static shared")


def cuobjdump() -> str | None:
    """Path of the tool, in triton's wheel or a toolkit."""
    try:
        import triton
    except ImportError:
        return shutil.which("cuobjdump")
    bundled = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return str(bundled) if bundled.exists() else shutil.which("cuobjdump")


def dump(*options: str) -> str:
    """What cuobjdump prints about the library.

    Raises:
        RuntimeError: there is no library, or no cuobjdump.
    """
    tool = cuobjdump()
    if tool is None or not LIBRARY.exists():
        raise RuntimeError(f"no cuobjdump, or no {LIBRARY.name}: {native.why_no_cuda}")
    command = [tool, *options, LIBRARY]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resources() -> dict[str, list[tuple[str, dict[str, int]]]]:
    """The kernels of each architecture, with registers, stack, shared and local bytes."""
    uses: dict[str, list[tuple[str, dict[str, int]]]] = {}
    kernels, name = [], ""
    for line in dump("--dump-resource-usage").splitlines():
        if match := re.search(r"\barch = (sm_\d+)", line):
            kernels = uses.setdefault(match[1], [])
        elif match := re.search(r"Function (\S+):", line):
            name = match[1]
        elif "REG:" in line and any(kernel in name for kernel in KERNELS):
            pairs = re.findall(r"(\w+):(\d+)", line)
            kernels.append((name, {key: int(value) for key, value in pairs}))
    return uses


def table() -> str:
    """The table as Markdown: the least and the most that the variants of a kernel use."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    by_architecture = resources()
    for kernel in KERNELS:
        for arch in sorted(by_architecture, key=lambda arch: int(arch.removeprefix("sm_"))):
            uses = [use for name, use in by_architecture[arch] if re.search(rf"\d{kernel}", name)]
            cells = [kernel, str(len(uses)), arch]
            for of in ("REG", "STACK", "LOCAL", "SHARED"):
                values = sorted({use[of] for use in uses})
                cells.append("-".join(str(v) for v in dict.fromkeys((values[0], values[-1]))))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Prints the table."""
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
