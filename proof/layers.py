"""Which file may import which: the layers of the project, as one table.

`python -m proof.layers` prints what every file imports from the project, the imports between
folders, and what breaks the rules: an import that the table does not allow, or a circle.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from proof.where import ROOT

PUBLIC = {"mpkernels", "mpkernels.eager", "mpkernels.functional"}
# Modules that the CPU and the GPU benchmarks share.
SHARED = {
    f"benchmarks.{name}"
    for name in ("baselines", "cases", "machine", "measure", "problem", "training", "workload")
}

# A file, or its folder -> what it may import from this project and from triton. A name allows
# everything below it too, except "mpkernels". "(triton)" allows it within functions only.
ALLOWED = {
    "mpkernels/version.py": set(),
    "mpkernels/eager": {"mpkernels.eager"},
    "mpkernels/triton/launch.py": {"mpkernels.ops.layout", "mpkernels.ops.chip"},
    "mpkernels/triton/launching.py": {"mpkernels.ops.native"},
    "mpkernels/triton/standin.py": {"mpkernels.ops.internals"},
    "mpkernels/triton/plan.py": {"mpkernels.ops.internals", "mpkernels.triton"},
    "mpkernels/triton/tuned.py": {
        "mpkernels.ops.layout",
        "mpkernels.ops.onchip",
        "mpkernels.triton.launch",
        "mpkernels.triton.launching",
    },
    "mpkernels/triton": {
        "mpkernels.triton",
        "mpkernels.ops.flags",
        "mpkernels.ops.layout",
        "mpkernels.ops.onchip",
        "mpkernels.eager.functional",
        "mpkernels.eager.gradients",
        "triton",
    },
    "mpkernels/ops/nodes.py": {"mpkernels.ops", "(mpkernels._nodes)"},
    "mpkernels/ops": {"mpkernels.ops", "mpkernels.eager", "(mpkernels.triton)", "(triton)"},
    "mpkernels/functional.py": {
        "mpkernels.ops",
        "mpkernels.eager.arguments",
        "mpkernels.eager.functional",
    },
    "mpkernels/decompositions.py": {"mpkernels.ops"},
    "mpkernels/flops.py": {"mpkernels.ops"},
    "mpkernels/fold.py": {"mpkernels.eager"},
    "mpkernels/modules.py": {
        "mpkernels.eager",
        "mpkernels.fold",
        "mpkernels.functional",
        "mpkernels.ops.cross_connect",
        "mpkernels.ops.distributed",
        "mpkernels.ops.gate",
    },
    "mpkernels/fuse.py": {"mpkernels.eager", "mpkernels.modules"},
    "mpkernels/explain.py": {
        "mpkernels.eager",
        "mpkernels.fold",
        "mpkernels.modules",
        "mpkernels.ops",
        "mpkernels.triton.launch",
        "mpkernels.triton.tuned",
    },
    "mpkernels/record.py": {"mpkernels.eager", "mpkernels.ops.internals"},
    "mpkernels/route.py": {"mpkernels.eager", "mpkernels.record"},
    "mpkernels/tune.py": {
        "mpkernels.eager",
        "mpkernels.functional",
        "mpkernels.ops",
        "(mpkernels.triton)",
    },
    "mpkernels/nearness.py": set(),
    "mpkernels/selftest.py": {
        "mpkernels.nearness",
        "mpkernels.eager",
        "mpkernels.functional",
        "mpkernels.ops",
    },
    "mpkernels/report.py": {
        "mpkernels.ops",
        "mpkernels.selftest",
        "mpkernels.version",
    },
    "mpkernels/command.py": set(),  # imports what its table names, when it is asked for
    "mpkernels/__main__.py": {"mpkernels.command"},
    "mpkernels/__init__.py": {
        "mpkernels.decompositions",
        "mpkernels.eager",
        "mpkernels.explain",
        "mpkernels.flops",
        "mpkernels.functional",
        "mpkernels.fuse",
        "mpkernels.record",
        "mpkernels.route",
        "mpkernels.tune",
        "mpkernels.modules",
        "mpkernels.ops.switch",
        "mpkernels.version",
    },
    "models/networks": {"models.networks", "mpkernels"},
    "models/data/__main__.py": {"models.data", "models.cli"},
    "models/data": {"models.data"},
    "models/environment.py": {"mpkernels"},
    "models/training": {
        "models.environment",
        "models.training",
        "models.networks",
        "models.data",
        "mpkernels",
    },
    "models/paper": {
        "models.paper",
        "models.networks",
        "models.data",
        "models.training",
        "mpkernels",
    },
    "models/cli.py": {"mpkernels.command"},
    "models": {"models", "mpkernels"},
    "examples": {"models", "mpkernels"},
    "proof/where.py": set(),
    "proof/problems": {"proof.problems", "proof.dispatched", "proof.where", "models", "mpkernels"},
    "proof/machine_code": {
        "proof.machine_code",
        "proof.problems",
        "proof.recorder",
        "mpkernels",
        "triton",
    },
    "proof/traffic": {"proof.traffic", "proof.problems", "proof.where", "mpkernels", "triton"},
    "proof/emulated": {"proof.emulated", "proof.problems", "proof.where", "mpkernels", "triton"},
    "proof/shim": {"proof.shim", "proof.where", "mpkernels"},
    "proof": {"proof", "mpkernels"},
    "benchmarks/cpu": {"benchmarks.cpu", *SHARED, "proof", "models", "mpkernels"},
    "benchmarks/gpu/steps": {
        "benchmarks.gpu.steps",
        *SHARED,
        "proof",
        "models",
        "mpkernels",
        "triton",
    },
    "benchmarks/gpu": {"benchmarks.gpu", *SHARED, "proof", "models", "mpkernels", "triton"},
    "benchmarks/demo": {"benchmarks.demo", *SHARED, "models", "mpkernels"},
    "benchmarks/report.py": {"benchmarks", "proof", "models", "mpkernels"},
    "benchmarks": {*SHARED, "benchmarks.cpu", "benchmarks.report", "models", "mpkernels", "proof"},
    "tests": {"proof", "benchmarks", "models", "mpkernels", "setup", "triton"},
    "hubconf.py": {"models"},
    "setup.py": set(),
}
ROOMS = ("mpkernels", "models", "proof", "benchmarks", "tests", "examples")
NETWORKS = "mpkernels.models."
PROJECT = (*ROOMS, "hubconf", "setup", "triton")


def sources() -> list[str]:
    """All Python files of the project, relative to its root; the networks by their short name."""
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    paths = [path for path in paths if ROOT / "mpkernels/models" not in path.parents]
    paths += [ROOT / "hubconf.py", ROOT / "setup.py"]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def is_module(name: str) -> bool:
    """Whether a dotted name is a file or a folder of the project."""
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


def imported(path: str, source: str) -> Iterator[tuple[str, bool]]:
    """(module name, whether it is within a function) of every import."""
    tree = ast.parse(source)
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
            parts = path.split("/")[: -node.level] if node.level else []
            module = ".".join([*parts, node.module] if node.module else parts)
            inner = [f"{module}.{alias.name}" for alias in node.names]
            names = [name if is_module(name) else module for name in inner]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            argument = node.args[0]
            argument = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
            if isinstance(argument, ast.Constant):
                names = [str(argument.value).rstrip(".")]
        for name in names:
            # The link models leads to mpkernels/models.
            name = name.removeprefix("mpkernels.") if f"{name}.".startswith(NETWORKS) else name
            if name.partition(".")[0] in PROJECT:
                yield name, id(node) in within


def rule_of(path: str) -> str:
    """The entry of ALLOWED that a file falls under."""
    while path not in ALLOWED:
        path = path.rpartition("/")[0]
        if not path:
            raise KeyError("the file has no room: add it to ALLOWED")
    return path


def violations(path: str, source: str) -> list[str]:
    """The modules that a file imports but may not."""
    allowed, refused = ALLOWED[rule_of(path)], []
    for name, within_function in imported(path, source):
        rules = {rule.strip("()") for rule in allowed if within_function or "(" not in rule}
        if path.startswith(("models/", "examples/")) and name.startswith("mpkernels"):
            inside = name in rules - {"mpkernels"} | PUBLIC
        else:
            inside = any(name == rule or name.startswith(f"{rule}.") for rule in rules)
        if not inside:
            refused.append(name)
    return refused


def file_of(name: str) -> str | None:
    """The file of a module; None for a folder without an __init__.py."""
    path = Path(name.replace(".", "/"))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / file).exists():
            return file.as_posix()
    return None


def imports() -> dict[str, list[str]]:
    """The files that each file imports, including imports within functions."""
    files = {}
    for path in sources():
        names = {file_of(name) for name, _ in imported(path, (ROOT / path).read_text())}
        files[path] = sorted(name for name in names if name not in (None, path))
    return files


def circle(edges: dict[str, list[str]]) -> list[str]:
    """One circle among these edges, or an empty list."""
    done: set[str] = set()
    path: list[str] = []

    def visit(node: str) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in done:
            path.append(node)
            for target in edges.get(node, []):
                if cycle := visit(target):
                    return cycle
            done.add(path.pop())
        return []

    return next((cycle for node in edges if (cycle := visit(node))), [])


def between_rooms(edges: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same imports between folders; a file at the top of a package counts on its own."""

    def room(path: str) -> str:
        folder = path.rpartition("/")[0]
        return folder if "/" in folder else path

    rooms: dict[str, set[str]] = {}
    for path, files in edges.items():
        rooms.setdefault(room(path), set()).update(room(target) for target in files)
    return {name: sorted(files - {name}) for name, files in sorted(rooms.items())}


def main() -> int:
    """Prints the imports and returns the exit status, 1 if they break the rules."""
    edges = imports()
    for title, targets_of in (("files", edges), ("folders", between_rooms(edges))):
        print(f"# Imports between {title}")
        for path, targets in targets_of.items():
            print(f"{path}: {', '.join(targets) or '-'}")
    problems = [
        f"{p} may not import {n}" for p in edges for n in violations(p, (ROOT / p).read_text())
    ]
    if cycle := circle(edges):
        problems.append(f"circle: {' -> '.join(cycle)}")
    print("# Against the rules", *(problems or ["nothing"]), sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
