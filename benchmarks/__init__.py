"""Measurements. The networks' shapes and the error bounds are those of the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # a folder of modules
