"""Types are as users need them: mypy and pyright, both strict, read what users write."""

import json
import os
import runpy
import subprocess
import sys
import types
import typing

import pytest
import typing_extensions
from torch import nn

import mpkernels as mpk
from mpkernels.eager.modules import GATE_INITS, GateInit
from mpkernels.route import RULES, Named
from proof.where import ROOT

FILES = ["right.py", "wrong.py"]
FOLDER = ROOT / "tests/package/typed"
# As a user has the package: in the types' own words, without this project's settings.
MYPY = ["mypy", "--strict", "--config-file=", "--follow-imports=silent", "--output=json"]
MYPY += [f"--cache-dir={ROOT / '.mypy_cache/typed'}"]
# The wheel of basedpyright is pyright with all that it needs; pyright's own downloads it.
PYRIGHT = ["basedpyright", "--outputjson", "--level=error", f"--pythonpath={sys.executable}"]


def printed(command):
    """What a checker says of both files; it ends with 1 as it finds errors."""
    pytest.importorskip(command[0], reason=f"{command[0]} is not installed")
    files = [str(FOLDER / name) for name in FILES]
    done = subprocess.run(
        [sys.executable, "-m", *command, *files],
        cwd=ROOT, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def errors_of_mypy():
    """(file, line) -> what mypy says."""
    errors = map(json.loads, printed(MYPY).splitlines())
    return {(error["file"], error["line"]): error["message"] for error in errors}


def errors_of_pyright():
    """(file, line) -> what pyright says."""
    errors = json.loads(printed(PYRIGHT))["generalDiagnostics"]
    return {(e["file"], e["range"]["start"]["line"] + 1): e["message"] for e in errors}


@pytest.mark.parametrize("errors_of", [errors_of_mypy, errors_of_pyright])
def test_checkers_refuse_what_is_wrong_and_nothing_else(errors_of):
    found = {(path.rpartition("/")[2], at): said for (path, at), said in errors_of().items()}
    lines = {name: (FOLDER / name).read_text().splitlines() for name in FILES}
    wrong = {(name, at) for name in FILES for at, line in enumerate(lines[name], 1)
             if line.endswith("# wrong")}  # fmt: skip
    assert {name for name, _ in wrong} == {"wrong.py"}
    assert {at: said for at, said in found.items() if at not in wrong} == {}
    assert wrong - found.keys() == set()


def fits(value, kind):
    """Whether a value is of a type."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if origin is tuple:
        parts = [parts[0]] * len(value) if parts[-1] is ... else parts
        return type(value) is tuple and len(value) == len(parts) and all(map(fits, value, parts))
    if origin is dict:
        return type(value) is dict and all(fits(one, parts[1]) for one in value.values())
    return isinstance(value, kind)


def test_values_are_what_checkers_think(monkeypatch):
    seen = []

    def assert_type(value, kind):
        assert fits(value, kind), (type(value), kind)
        seen.append(kind)

    monkeypatch.setattr(typing_extensions, "assert_type", assert_type)
    runpy.run_path(str(FOLDER / "right.py"))
    assert len(seen) > 20


def test_types_of_calls_cost_nothing():
    for module in (mpk, mpk.eager):
        for name in ("CrossConnect", "CrossStitch", "CrossPredictConv2d", "CrossPredictLinear"):
            assert getattr(module, name).__call__ is nn.Module.__call__


def test_names_in_types_are_those_that_work():
    assert typing.get_args(GateInit) == tuple(GATE_INITS)
    assert typing.get_args(Named) == tuple(RULES)
