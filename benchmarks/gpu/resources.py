"""What nvcc made of the CUDA C++ kernels: `python -m benchmarks.gpu.resources`.

From cuobjdump's resource report of the library; dynamic shared memory is the launch's choice, which
mpkernels/ops/onchip.py counts. Printed as docs/internals/kernels.md shows it.
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
    """The tool, from triton's wheel or a toolkit."""
    try:
        import triton
    except ImportError:
        return shutil.which("cuobjdump")
    ours = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return str(ours) if ours.exists() else shutil.which("cuobjdump")


def dump(*options: str) -> str:
    """What cuobjdump says of the library.

    Raises:
        RuntimeError: there is no library, or no cuobjdump.
    """
    tool = cuobjdump()
    if tool is None or not LIBRARY.exists():
        raise RuntimeError(f"no cuobjdump, or no {LIBRARY.name}: {native.why_no_cuda}")
    done = subprocess.run([tool, *options, LIBRARY], capture_output=True, text=True, check=True)
    return done.stdout


def resources() -> dict[str, list[tuple[str, dict[str, int]]]]:
    """Of each architecture its kernels, with registers, stack, shared and local bytes."""
    found: dict[str, list[tuple[str, dict[str, int]]]] = {}
    kernels, name = [], ""
    for line in dump("--dump-resource-usage").splitlines():
        if match := re.search(r"\barch = (sm_\d+)", line):
            kernels = found.setdefault(match[1], [])
        elif match := re.search(r"Function (\S+):", line):
            name = match[1]
        elif "REG:" in line and any(kernel in name for kernel in KERNELS):
            pairs = re.findall(r"(\w+):(\d+)", line)
            kernels.append((name, {key: int(value) for key, value in pairs}))
    return found


def table() -> str:
    """The table as Markdown: of the variants of a kernel the least and the most."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    found = resources()
    for kernel in KERNELS:
        for arch in sorted(found, key=lambda arch: int(arch.removeprefix("sm_"))):
            uses = [use for name, use in found[arch] if re.search(rf"\d{kernel}", name)]
            cells = [kernel, str(len(uses)), arch]
            for of in ("REG", "STACK", "LOCAL", "SHARED"):
                values = sorted({use[of] for use in uses})
                cells.append("-".join(str(v) for v in dict.fromkeys((values[0], values[-1]))))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Prints it."""
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
