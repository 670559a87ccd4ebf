"""Parts of the GPU report that show that results are right: tests and compute-sanitizer."""

from __future__ import annotations

import multiprocessing
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_correctness

CHECK_SECONDS = 150.0  # after which no case starts
ROOT = Path(__file__).parents[1]


def environment(report: dict[str, Any]) -> dict[str, Any]:
    """Card, versions and command."""
    from benchmarks.gpu import commit

    found: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": commit(),
        "command": "python -m benchmarks.gpu " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
    }
    try:
        import triton
    except ImportError:
        found["triton"] = None
    else:
        found["triton"] = triton.__version__
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        driver = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True,
        ) if shutil.which("nvidia-smi") else None  # fmt: skip
        found |= {
            "card": card.name,
            "driver": driver.stdout.strip() if driver else "unknown",
            "multiprocessors": card.multi_processor_count,
            "l2_bytes": card.L2_cache_size,
            "memory_bytes": card.total_memory,
        }
    return found


def tests(files: list[str], *options: str, limit: float, **variables: str) -> dict[str, Any]:
    """Runs test files in a process of their own; counts, and the first failures' names."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "tests.xml"
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={table}",
             *(f"tests/{name}" for name in files), *options],
            cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True,
            timeout=limit,
        )  # fmt: skip
        if not table.exists():
            raise RuntimeError(f"pytest did not start: {(run.stdout + run.stderr)[-1500:]}")
        suite = next(ElementTree.parse(table).getroot().iter("testsuite"))
        failed = [
            f"{case.get('name')}"
            for case in suite.iter("testcase")
            if case.find("failure") is not None or case.find("error") is not None
        ]
    count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    return {**count, "failed": failed[:20], "right": run.returncode == 0}


def correctness(report: dict[str, Any]) -> dict[str, Any]:
    """Every operator, dtype and layout against float64, fresh inputs; right if each came up."""
    seed, deadline = random.randrange(1, 2**31), time.time() + CHECK_SECONDS
    cases = gpu_correctness.all_cases()
    # Processes, because most of the time goes into compiling kernels.
    workers = max(1, min(8, (os.cpu_count() or 2) // 2))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(
            gpu_correctness.check, cases, repeat("cuda"), repeat(seed), repeat(deadline)
        ))  # fmt: skip
    found = gpu_correctness.summary(rows)
    # Cases come in turns of all kinds, one batch a turn.
    whole_turn = all(rows[: len(cases) // len(gpu_correctness.BATCHES)])
    return {"seed": seed, **found, "right": not found["wrong"] and whole_turn}


def sanitizer(report: dict[str, Any]) -> dict[str, Any]:
    """compute-sanitizer over every kernel, by every method, where it is installed.

    memcheck sees every address; racecheck sees shared memory alone, which Triton's own code uses.
    That no two programs write one element, and that a program reads what it wrote only behind a
    barrier, is proven in the interpreter (tests/meter.py).
    """
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    tool = shutil.which("compute-sanitizer") or shutil.which(f"{home}/bin/compute-sanitizer")
    if tool is None:
        return {"why": "compute-sanitizer is not installed: not measured"}
    found: dict[str, Any] = {}
    for check in ("memcheck", "racecheck"):
        run = subprocess.run(
            [tool, "--tool", check, "--error-exitcode", "7",
             sys.executable, "-m", "benchmarks.sanitized"],
            cwd=ROOT, capture_output=True, text=True, timeout=90,
            env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        )  # fmt: skip
        last = (run.stdout + run.stderr).strip().splitlines()[-1:]
        found[check] = {"clean": run.returncode == 0, "last": "".join(last)}
    return {**found, "right": all(each["clean"] for each in found.values())}


def without_gpu(report: dict[str, Any]) -> dict[str, Any]:
    """Interpreter, traffic, ahead-of-time compilation and fake-CUDA graphs."""
    found = tests(["test_triton.py", "test_budgets.py", "test_fake_cuda.py"], limit=1500)
    return {"proof": found, "right": found["right"]}
