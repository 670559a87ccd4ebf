"""The files for a hosted CI and for contributors name what exists, and agree with each other."""

import re

import pytest

from proof.where import ROOT

WORKFLOWS = {path.name: path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml")}
MAKEFILE, PROJECT = ((ROOT / name).read_text() for name in ("Makefile", "pyproject.toml"))
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text()
EACH = pytest.mark.parametrize("name", WORKFLOWS)


def test_the_workflows_are_there():
    assert sorted(WORKFLOWS) == ["ci.yml", "gpu.yml", "wheels.yml"]


@EACH
def test_targets_modules_and_files_exist(name):
    commands = re.sub(r"#.*", "", WORKFLOWS[name])
    targets = re.findall(r"\bmake ([a-z-]+)", commands)
    missing = [t for t in targets if not re.search(rf"^{t}:", MAKEFILE, re.M)]
    assert targets and missing == []
    for module in re.findall(r"python -m ([\w.]+)", commands):
        assert (ROOT / module.replace(".", "/") / "__main__.py").exists(), module
    for file in re.findall(r"[\w./-]+\.(?:py|md)\b", WORKFLOWS[name]):
        assert file.startswith("build/") or (ROOT / file).exists(), file


@EACH
def test_every_job_is_limited(name):
    text = WORKFLOWS[name]
    assert "\npermissions:\n  contents: read\n" in text and "\nconcurrency:\n" in text
    assert text.count("runs-on:") == text.count("timeout-minutes:") > 0
    uses = re.findall(r"uses: (\S+)", text)
    assert uses and [u for u in uses if not re.search(r"@(v\d+|release/v\d+)$", u)] == []
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


def test_versions_are_those_that_the_project_promises():
    promised = set(re.findall(r'Python :: (3\.\d+)"', PROJECT))
    (oldest,) = re.findall(r'dependencies = \["torch>=([\d.]+)"\]', PROJECT)
    assert f'requires-python = ">={min(promised, key=lambda v: int(v[2:]))}"' in PROJECT
    runs = re.findall(r'runner: (\S+), python: "([\d.]+)", torch: "(.*?)"', WORKFLOWS["ci.yml"])
    for runner in {runner for runner, *_ in runs}:
        assert f"=={oldest}.*" in {torch for machine, _, torch in runs if machine == runner}
    assert {python for _, python, _ in runs} == promised


def test_one_address_everywhere():
    (address,) = re.findall(r'^Homepage = "(.*)"$', PROJECT, re.M)
    files = [ROOT / "CITATION.cff", ROOT / "SECURITY.md", ROOT / "pyproject.toml"]
    files += (ROOT / ".github").rglob("*.yml")
    named = [
        url
        for file in files
        for url in re.findall(r"https://github\.com/[^\s\"/)]+/[^\s\"/)]+", file.read_text())
    ]
    assert len(named) >= 6 and set(named) == {address}


def test_hooks_have_the_tools_and_the_files_of_make_lint():
    (recipe,) = re.findall(r"^lint: install\n((?:\t.*\n)+)", MAKEFILE, re.M)
    for tool in ("ruff check", "ruff format", "mypy", "clang-format"):
        assert tool in recipe and re.search(rf"entry: .*{tool}", HOOKS), tool
    (pattern,) = re.findall(r"files: (\S+)", HOOKS)
    wildcards = re.findall(r"\$\(wildcard (.*)\)", MAKEFILE)
    linted = {p for line in wildcards for w in line.split() for p in ROOT.glob(w)}
    linted |= {ROOT / file for file in re.findall(r"[\w/]+\.cpp", recipe)}
    rooms = ("csrc", "proof", "benchmarks", "examples")
    every = {path for room in rooms for path in (ROOT / room).rglob("*") if path.is_file()}
    hooked = {p for p in every if re.search(pattern, p.relative_to(ROOT).as_posix())}
    assert hooked == linted
