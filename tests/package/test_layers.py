"""Imports point one way, and files stay short."""

import pytest

from proof.layers import ALLOWED, between_rooms, circle, imports, rule_of, sources, violations
from proof.where import ROOT


def test_imports_point_down():
    refused = {path: violations(path, (ROOT / path).read_text()) for path in sources()}
    assert {path: names for path, names in refused.items() if names} == {}


@pytest.mark.parametrize(
    ("path", "source", "name"),
    [
        ("mpkernels/eager/modules.py", "from mpkernels import functional", "mpkernels.functional"),
        ("mpkernels/ops/mix.py", "import triton", "triton"),
        ("mpkernels/ops/mix.py", "from mpkernels.triton import mix", "mpkernels.triton.mix"),
        ("mpkernels/triton/launch.py", "import triton.language as tl", "triton.language"),
        ("mpkernels/functional.py", "from mpkernels.modules import CrossConnect",
         "mpkernels.modules"),
        ("models/networks/vgg.py", "from mpkernels.ops.backend import x", "mpkernels.ops.backend"),
        ("models/networks/vgg.py", "import benchmarks.measure", "benchmarks.measure"),
        ("models/networks/vgg.py", "from ..training.step import x", "models.training.step"),
        ("proof/closeness.py", "from benchmarks import measure", "benchmarks.measure"),
        ("benchmarks/measure.py", "from benchmarks.gpu import rows", "benchmarks.gpu.rows"),
        ("benchmarks/cpu/steps.py", "from benchmarks.gpu import rows", "benchmarks.gpu.rows"),
        ("tests/kernels/test_cuda.py", "from tests.conftest import seed", "tests.conftest"),
    ],
)  # fmt: skip
def test_an_import_that_points_up_is_seen(path, source, name):
    assert violations(path, source) == [name]


def test_operators_reach_triton_within_functions():
    assert violations("mpkernels/ops/mix.py", "def launch():\n    import triton") == []


def test_no_circle():
    """No circle exists between files, even by imports within functions, nor between folders."""
    edges = imports()
    assert circle(edges) == []
    rooms = between_rooms(edges)
    # Launchers import the layout of maps from ops, and ops import launchers within functions.
    rooms["mpkernels/ops"].remove("mpkernels/triton")
    assert circle(rooms) == []


def test_a_circle_is_seen():
    assert circle({"a": ["b", "c"], "b": [], "c": ["d"], "d": ["a"]}) == ["a", "c", "d", "a"]


def test_every_rule_has_a_file():
    assert {rule_of(path) for path in sources()} == set(ALLOWED)


def test_files_stay_short():
    suffixes = (".py", ".cpp", ".h", ".cu", ".cuh")
    rooms = {*(path.split("/")[0] for path in sources()), "csrc"}
    paths = [p for room in rooms for p in (ROOT / room).rglob("*") if p.suffix in suffixes]
    assert len(paths) > 250
    long = {p.name: n for p in paths if (n := len(p.read_text().splitlines())) > 350}
    assert long == {}
