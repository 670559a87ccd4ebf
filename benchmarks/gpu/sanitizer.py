"""compute-sanitizer over every launch of `launches`.

memcheck sees every address, racecheck shared memory, synccheck the barriers. That no two programs
write one element is proven in the interpreter.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import Any

from benchmarks.gpu.rows import ROOT

SECONDS = 95.0


def cases() -> list[str]:
    """Its tools."""
    return ["memcheck", "racecheck", "synccheck"]


def run(tool: str) -> dict[str, Any]:
    """What a tool finds, and how many launches it watched."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(f"{home}/bin/compute-sanitizer")
    if sanitizer is None:
        raise RuntimeError("compute-sanitizer is not installed")
    watched = [sys.executable, "-u", "-m", "benchmarks.gpu.launches"]
    process = subprocess.Popen(
        [sanitizer, "--tool", tool, "--error-exitcode", "7", *watched], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        raise RuntimeError(f"{tool} did not end in {SECONDS:.0f} s: {said[-2000:]}") from None
    launches = len(re.findall(r"(?:True|False)$", said, re.MULTILINE))
    found = [line for line in said.splitlines() if line.startswith("=========")]
    clean = process.returncode == 0
    row = {"launches": launches, "right": clean, "last": "".join(found[-1:])}
    return row | ({} if clean else {"wrong": " ".join(found[1:4]), "traceback": said[-6000:]})
