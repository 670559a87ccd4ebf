"""Imports point one way, and files stay short."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = {"mpkernels", "mpkernels.eager", "mpkernels.functional"}

# A file, or the folder of a file -> what it may import of this project and of triton. A name
# allows what lies below it too, except "mpkernels" itself. "(triton)": within functions alone.
ALLOWED = {
    "mpkernels/version.py": set(),
    "mpkernels/eager": {"mpkernels.eager"},
    "mpkernels/triton/launch.py": {"mpkernels.ops.layout", "mpkernels.ops.onchip"},
    "mpkernels/triton/tuned.py": {
        "mpkernels.ops.layout",
        "mpkernels.ops.onchip",
        "mpkernels.triton.launch",
    },
    "mpkernels/triton": {
        "mpkernels.triton",
        "mpkernels.ops.layout",
        "mpkernels.ops.onchip",
        "mpkernels.eager.functional",
        "triton",
    },
    "mpkernels/ops": {"mpkernels.ops", "mpkernels.eager", "(mpkernels.triton)", "(triton)"},
    "mpkernels/functional.py": {
        "mpkernels.ops",
        "mpkernels.eager.arguments",
        "mpkernels.eager.functional",
    },
    "mpkernels/fold.py": {"mpkernels.eager"},
    "mpkernels/modules.py": {"mpkernels.eager", "mpkernels.functional", "mpkernels.fold"},
    "mpkernels/fuse.py": {"mpkernels.eager", "mpkernels.modules"},
    "mpkernels/availability.py": {"mpkernels.ops"},
    "mpkernels/explain": {
        "mpkernels.explain",
        "mpkernels.eager",
        "mpkernels.fold",
        "mpkernels.functional",
        "mpkernels.modules",
        "mpkernels.ops",
        "mpkernels.availability",
        "mpkernels.triton.launch",
        "mpkernels.triton.tuned",
    },
    "mpkernels/tune.py": {
        "mpkernels.eager",
        "mpkernels.functional",
        "mpkernels.ops",
        "mpkernels.availability",
        "(mpkernels.triton)",
    },
    "mpkernels/nearness.py": set(),
    "mpkernels/selftest.py": {
        "mpkernels.eager",
        "mpkernels.functional",
        "mpkernels.nearness",
        "mpkernels.ops",
        "mpkernels.availability",
    },
    "mpkernels/report.py": {
        "mpkernels.ops",
        "mpkernels.availability",
        "mpkernels.version",
        "(mpkernels._build)",
    },
    "mpkernels/__main__.py": {"mpkernels.report", "mpkernels.selftest"},
    "mpkernels/__init__.py": {
        "mpkernels.eager",
        "mpkernels.explain",
        "mpkernels.functional",
        "mpkernels.fuse",
        "mpkernels.tune",
        "mpkernels.modules",
        "mpkernels.ops.switch",
        "mpkernels.version",
    },
    "models": {"models", "mpkernels"},
    "examples": {"models", "mpkernels"},
}
PROJECT = ("mpkernels", "models", "benchmarks", "tests", "examples", "triton")
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for room in ("mpkernels", "models", "examples")
    for path in (ROOT / room).rglob("*.py")
)


def is_module(name):
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


def imported(tree):
    """(name, whether within a function) of every import; names of modules, not of their values."""
    within = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if is_module(name) else node.module for name in inner]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            argument = node.args[0]
            argument = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
            names = [argument.value.rstrip(".")]
        yield from ((name, id(node) in within) for name in names)


def rule_for(path):
    while path not in ALLOWED:
        path = path.rpartition("/")[0]
        assert path, "the file has no room: add it to ALLOWED"
    return ALLOWED[path]


def violations(path, source):
    allowed = rule_for(path)
    found = []
    for name, within_function in imported(ast.parse(source)):
        if name.partition(".")[0] not in PROJECT:
            continue
        rules = {rule.strip("()") for rule in allowed if within_function or "(" not in rule}
        if path.startswith(("models/", "examples/")) and name.startswith("mpkernels"):
            rules = rules - {"mpkernels"} | PUBLIC
            inside = name in rules
        else:
            inside = any(name == rule or name.startswith(f"{rule}.") for rule in rules)
        if not inside:
            found.append(name)
    return found


@pytest.mark.parametrize("path", SOURCES)
def test_imports_point_down(path):
    assert violations(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    "path, source, found",
    [
        ("mpkernels/eager/modules.py", "from mpkernels import functional", "mpkernels.functional"),
        ("mpkernels/ops/mix.py", "import triton", "triton"),
        ("mpkernels/ops/mix.py", "from mpkernels.triton import mix", "mpkernels.triton.mix"),
        ("mpkernels/triton/launch.py", "import triton.language as tl", "triton.language"),
        ("mpkernels/functional.py", "from mpkernels.modules import CrossConnect",
         "mpkernels.modules"),
        ("models/layers.py", "from mpkernels.ops.backend import x", "mpkernels.ops.backend"),
        ("models/layers.py", "import benchmarks.measure", "benchmarks.measure"),
    ],
)  # fmt: skip
def test_an_import_that_points_up_is_found(path, source, found):
    assert violations(path, source) == [found]


def test_operators_reach_triton_within_functions():
    assert violations("mpkernels/ops/mix.py", "def launch():\n    import triton") == []


def test_every_rule_has_a_file():
    used = set()
    for path in SOURCES:
        while path not in ALLOWED:
            path = path.rpartition("/")[0]
        used.add(path)
    assert used == set(ALLOWED)


def test_files_stay_short():
    suffixes = (".py", ".cpp", ".h", ".cu", ".cuh")
    rooms = [*{path.split("/")[0] for path in SOURCES}, "csrc", "tests", "benchmarks"]
    paths = [p for room in rooms for p in (ROOT / room).rglob("*") if p.suffix in suffixes]
    assert len(paths) > 60
    long = {p.name: n for p in paths if (n := len(p.read_text().splitlines())) > 350}
    assert long == {}
