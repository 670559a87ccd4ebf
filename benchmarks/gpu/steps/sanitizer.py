"""compute-sanitizer over every launch of `launches`.

memcheck watches every address, racecheck shared memory, synccheck the barriers. None of them sees
two programs write one element of a tensor; the tests in Triton's interpreter do.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import Any

from proof.where import ROOT

SECONDS = 95.0


def cases() -> list[str]:
    """The tools."""
    return ["memcheck", "racecheck", "synccheck"]


def run(tool: str) -> dict[str, Any]:
    """What a tool reports, and how many launches it watched."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(f"{home}/bin/compute-sanitizer")
    if sanitizer is None:
        raise RuntimeError("compute-sanitizer is not installed")
    watched = [sys.executable, "-u", "-m", "benchmarks.gpu.steps.launches"]
    process = subprocess.Popen(
        [sanitizer, "--tool", tool, "--error-exitcode", "7", *watched], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise RuntimeError(f"{tool} did not end in {SECONDS:.0f} s: {output[-2000:]}") from None
    launches = len(re.findall(r"(?:True|False)$", output, re.MULTILINE))
    report = [line for line in output.splitlines() if line.startswith("=========")]
    clean = process.returncode == 0
    row = {"launches": launches, "right": clean, "last": "".join(report[-1:])}
    return row | ({} if clean else {"wrong": " ".join(report[1:4]), "traceback": output[-6000:]})
