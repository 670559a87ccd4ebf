"""What setup.py leaves behind: whole archives, fresh wheels, and the reasons of what is missing."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import mpkernels as mpk
from proof.fresh import PACKAGE, RUNS_ON_THE_DEFINITION, succeeds

ROOT, VERSION = PACKAGE.parent, mpk.__version__
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="no source tree")
# What a build must not find: a toolkit, whose kernels take minutes.
if not shutil.which("c++", path="/usr/bin:/bin"):
    pytest.skip("no C++ compiler here", allow_module_level=True)
QUICK = {"CUDA_HOME": "/nonexistent", "CUDA_PATH": "", "PATH": "/usr/bin:/bin", "LDFLAGS": ""}


def setup(*arguments, **variables):
    """Runs setup.py in the source tree."""
    environment = {**os.environ, **QUICK, **variables}
    command = [sys.executable, "setup.py", "-q", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def compiler(folder, says):
    """A C++ compiler that tells its version and compiles nothing; its last line has no end."""
    path = folder / "compiler"
    path.write_text(f"""#!/bin/sh
case "$*" in *-version* | *-dump*) exec c++ "$@" ;; esac
echo 'In file included from here:' >&2
printf '{says}\\n1 error' >&2
exit 1
""")
    path.chmod(0o755)
    return str(path)


def folders(folder):
    return "--build-lib", folder / "lib", "--build-temp", folder / "temp"


SAYS = f"{ROOT}/csrc/cpu/mix.cpp:7:3: error: no such thing"
SHORT = "csrc/cpu/mix.cpp:7:3: error: no such thing"


def test_the_record_names_the_first_error_of_the_compiler(tmp_path):
    result = setup("build_ext", *folders(tmp_path), CXX=compiler(tmp_path, SAYS))
    assert result.returncode == 0, result.stderr
    assert f"warning: mpkernels: _C was not built: {SHORT}" in result.stderr
    assert SAYS in result.stderr  # all that the compiler said is shown too
    record = json.loads((tmp_path / "lib/mpkernels/build.json").read_text())
    assert record["missing"]["_C"] == record["missing"]["_nodes"] == SHORT


@pytest.mark.parametrize(
    "name, reason",
    [
        ("no-such-compiler -O1", "the C++ compiler no-such-compiler was not found"),
        ("false", "Command '['false', '--version']' returned"),
    ],
)
def test_compilers_that_are_none(name, reason, tmp_path):
    result = setup("build_ext", *folders(tmp_path), CXX=name)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "lib/mpkernels/build.json").read_text())
    assert record["missing"]["_C"].startswith(reason)


def test_a_part_that_fails_may_fail_the_build(tmp_path):
    result = setup(
        "build_ext", *folders(tmp_path), CXX=compiler(tmp_path, SAYS), MPKERNELS_REQUIRE_NATIVE="1"
    )
    assert result.returncode == 1
    said = f"error: mpkernels: _C was not built: {SHORT} (MPKERNELS_REQUIRE_NATIVE is set)"
    assert said in result.stderr


def test_what_an_older_build_left_is_no_part_of_a_wheel(tmp_path):
    old = tmp_path / "lib/mpkernels/_of_an_older_build.so"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    other = tmp_path / "lib/of_somebody_else"
    other.touch()
    result = setup("build", *folders(tmp_path), CXX="no-such-compiler")
    assert result.returncode == 0, result.stderr
    assert not old.exists() and other.exists() and (tmp_path / "lib/mpkernels/__init__.py").exists()


def test_a_wheel_for_every_torch_is_one_for_every_python(tmp_path):
    for every, tag in (
        ("", f"cp3{sys.version_info[1]}-cp3{sys.version_info[1]}-"),
        ("1", "py3-none-"),
    ):
        folder = tmp_path / (every or "0")
        result = setup(
            "build", *folders(folder),
            "bdist_wheel", "--dist-dir", folder, "--bdist-dir", folder / "b",
            CXX="no-such-compiler", MPKERNELS_EVERY_TORCH=every,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        (wheel,) = folder.glob("*.whl")
        assert wheel.name.startswith(f"mpkernels-{VERSION}-{tag}linux_")
        names = zipfile.ZipFile(wheel).namelist()
        assert {name.split("/")[0] for name in names} == {
            "mpkernels",
            f"mpkernels-{VERSION}.dist-info",
        }
        assert "mpkernels/ops/schemas.def" in names and "mpkernels/build.json" in names


def test_the_source_archive_holds_all_that_a_build_and_the_tests_need(tmp_path):
    result = setup("egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path)
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("the source tree is no checkout")
    ours = {
        name
        for name in listed.stdout.split()
        if not name.startswith(".ci/") and (ROOT / name).is_file()
    }
    assert ours - held == set()
    assert not [name for name in held if name.endswith((".so", ".pyc", "build.json"))]


def test_a_source_tree_that_is_not_built_says_so(tmp_path):
    """Beside an installed package, whose import it is in the way of, and without."""
    tree, site = tmp_path / "tree", tmp_path / "site"
    for folder in (tree, site):
        ignored = shutil.ignore_patterns("*.so", "build.json", "__pycache__", "models")
        shutil.copytree(PACKAGE, folder / "mpkernels", ignore=ignored)
    (tree / "csrc").mkdir()
    # This very checkout may be installed here too.
    alone = f"import sys\nsys.path = [p for p in sys.path if p != {str(ROOT)!r}]\n"
    said = succeeds(f"{alone}{RUNS_ON_THE_DEFINITION}", path=tree).stdout
    assert f"This is the source tree {tree}: build it with a C++20 compiler" in said
    assert f"pip install --no-build-isolation -e {tree}" in said
    (site / "mpkernels/_C.so").write_bytes(b"")
    beside = f"{alone}sys.path.append({str(site)!r})\n{RUNS_ON_THE_DEFINITION}"
    said = succeeds(beside, path=tree).stdout
    assert f"the source tree {tree}, and not the mpkernels installed in {site}" in said
    (site / "mpkernels/_C.so").unlink()
    said = succeeds(RUNS_ON_THE_DEFINITION, path=site).stdout
    assert "source tree" not in said and "pip install --force-reinstall" in said
