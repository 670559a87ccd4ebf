"""Measurements on CPUs and GPUs. The networks' shapes and the error bounds are those of the tests.

`python -m benchmarks` runs the suites of `cpu`, `python -m benchmarks.gpu` the steps of `gpu`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
sys.path.insert(0, str(ROOT / "tests"))  # its modules are imported by their bare names
