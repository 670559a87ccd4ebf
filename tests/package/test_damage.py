"""With a library or build record missing, cut off or changed, import warns and eager runs."""

import hashlib
import json
import os
import re
import shutil
import signal

import pytest
import torch

from mpkernels.ops import native, nodes
from mpkernels.ops.record import SCHEMAS
from proof.fresh import PACKAGE, RUNS_ON_THE_DEFINITION, python, succeeds

BUILT = pytest.mark.skipif(not (PACKAGE / "_C.so").exists(), reason="nothing was compiled here")
CUDA = pytest.mark.skipif(
    native.why_no_cuda is not None, reason=f"CUDA C++ is not loaded here: {native.why_no_cuda}"
)
NODES = pytest.mark.skipif(nodes.why_none is not None, reason=f"no nodes here: {nodes.why_none}")
OTHERS = [pytest.param("_C_cuda", marks=CUDA), pytest.param("_nodes", marks=NODES)]
PARTS = ["_C", *OTHERS]
# What a warning says of a part that is damaged.
RUNS = {
    "_C": "on its eager definition",
    "_C_cuda": "without its CUDA C++ kernels",
    "_nodes": "its autograd nodes in Python",
}
PAGE = 4096
# Imports the package at each path in a child process, after torch, and prints its warnings.
IMPORTS = """
import json, os, signal, sys, warnings
import torch
for path in sys.stdin.read().split():
    sys.stdout.flush()
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        if status:
            print(json.dumps([f"ended with {os.waitstatus_to_exitcode(status)}"]))
        continue
    sys.path.insert(0, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import mpkernels as mpk
    assert mpk.__file__.startswith(path), mpk.__file__
    from mpkernels import report
    messages = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    mpk.CrossConnect(4, 2, 3)([torch.randn(2, 4, 3, 3) for _ in range(2)])
    print(json.dumps([*messages, report.report()]))
    sys.stdout.flush()
    os._exit(0)
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of the package without its compiled parts and its build record."""
    return copy_without_libraries(tmp_path)


def copy_without_libraries(folder):
    ignored = shutil.ignore_patterns("*.so", "build.json", "__pycache__")
    shutil.copytree(PACKAGE, folder / "mpkernels", ignore=ignored)
    return folder


def intact_copy(folder, to_damage=()):
    """A copy with compiled parts; those in `to_damage` are files, the others links."""
    copy_without_libraries(folder)
    for path in PACKAGE.glob("*.so"):
        if path.name in to_damage:
            shutil.copy(path, folder / "mpkernels")
        else:
            (folder / "mpkernels" / path.name).symlink_to(path)
    if (PACKAGE / "build.json").exists():
        shutil.copy(PACKAGE / "build.json", folder / "mpkernels")
    return folder


def messages_of_imports(folders):
    """For each folder the warnings of an import, followed by the report."""
    result = python(IMPORTS, input="\n".join(map(str, folders)))
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == len(folders)
    return lines


def test_without_the_extension(copy):
    result = succeeds(RUNS_ON_THE_DEFINITION, path=copy)
    assert "_C.so is not there" in result.stdout
    assert "pip install" in result.stdout


def test_without_the_extension_the_record_tells_why(copy):
    record = '{"missing": {"_C": "command c++ failed: not found"}}'
    (copy / "mpkernels" / "build.json").write_text(record)
    result = succeeds(RUNS_ON_THE_DEFINITION, path=copy)
    assert "_C.so is not there: command c++ failed: not found" in result.stdout


def test_report_without_the_extension(copy):
    run = "import runpy; runpy.run_module('mpkernels', run_name='__main__', alter_sys=True)"
    result = python(f"import warnings; warnings.simplefilter('ignore'); {run}", path=copy)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "_C.so is not there" in result.stdout
    assert "self-test passed: eager on cpu: cross_connect" in result.stdout
    assert "native on cpu: cross_connect" not in result.stdout


# How many bytes are left of a library of `size` bytes.
LENGTHS = {
    "nothing": lambda size: 0,
    "ten bytes": lambda size: 10,
    "the ELF header": lambda size: 64,
    "a page": lambda size: PAGE,
    "half": lambda size: size // 2,
    "all but the last page": lambda size: size - PAGE,
    "all but the last byte": lambda size: size - 1,
}


def truncate(path, length):
    os.truncate(path, length)


def flip_a_bit(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@BUILT
@pytest.mark.parametrize("name", PARTS)
def test_a_library_that_is_cut_off_or_changed_is_not_loaded(name, tmp_path):
    folders, messages = [], []
    size = (PACKAGE / f"{name}.so").stat().st_size
    for kind, length in LENGTHS.items():
        folders.append(intact_copy(tmp_path / kind.replace(" ", "_"), [f"{name}.so"]))
        truncate(folders[-1] / "mpkernels" / f"{name}.so", length(size))
        messages.append(f"{name}.so has {length(size)} bytes, but had {size} when it was built")
    for offset in (size // 3, size - 1):
        folders.append(intact_copy(tmp_path / f"byte_{offset}", [f"{name}.so"]))
        flip_a_bit(folders[-1] / "mpkernels" / f"{name}.so", offset)
        messages.append(f"{name}.so has other bytes than when it was built")
    for message, (*warnings, report) in zip(messages, messages_of_imports(folders), strict=True):
        assert message in report, report
        (warning,) = warnings
        assert message in warning and RUNS[name] in warning and "pip install" in warning


@BUILT
def test_with_a_truncated_extension_routers_run(tmp_path):
    folder = intact_copy(tmp_path, ["_C.so"])
    size = (PACKAGE / "_C.so").stat().st_size
    truncate(folder / "mpkernels" / "_C.so", size - PAGE)
    result = succeeds(RUNS_ON_THE_DEFINITION, path=folder)
    assert f"_C.so has {size - PAGE} bytes, but had {size} when it was built" in result.stdout


def test_a_library_that_does_not_load_says_what_it_was_built_for(copy):
    """The file is as it was built, but this torch cannot load it."""
    content = b"not a library"
    (copy / "mpkernels" / "_C.so").write_bytes(content)
    record = {
        "torch": "2.11.0", "torch_minimum": "2.11", "platform": "Linux x86_64",
        "files": {"_C": record_of(content)},
        "schemas": hashlib.sha256(SCHEMAS.read_bytes()).hexdigest(),
    }  # fmt: skip
    (copy / "mpkernels" / "build.json").write_text(json.dumps(record))
    result = succeeds(RUNS_ON_THE_DEFINITION, path=copy)
    assert f"_C.so does not load into torch {torch.__version__}" in result.stdout
    assert "it was built on Linux x86_64 with torch 2.11.0 for torch >= 2.11" in result.stdout


def record_of(content):
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


OLD = "build.json holds no size and hash of _C.so"
# Name -> (the content of build.json, or a function of the real one; the message).
RECORDS = {
    "empty": (b"", "build.json is damaged: Expecting value"),
    "cut": (lambda text: text[: len(text) // 2], "build.json is damaged: "),
    "cut_in_a_word": (lambda text: text[:-3], "build.json is damaged: "),
    "zeros": (bytes(300), "build.json is damaged: "),
    "latin_1": ('{"torch": "2.11ä"}'.encode("latin-1"), "build.json is damaged: 'utf-8' codec"),
    "utf_16": ('{"torch": "2.11"}'.encode("utf-16"), "build.json is damaged: 'utf-8' codec"),
    "bom": (b"\xef\xbb\xbf{}", "build.json is damaged: "),
    "list": (b"[]", "build.json is damaged: must be an object, got list"),
    "number": (b"3", "build.json is damaged: must be an object, got int"),
    "null": (b"null", "build.json is damaged: must be an object, got NoneType"),
    "deep": (b"[" * 100_000, "build.json is damaged: "),
    "no_keys": (b"{}", OLD),
    "of_an_older_build": (lambda text: without(text, "files"), OLD),
    "files_without_it": (lambda text: replaced(text, files={}), OLD),
    "files_as_list": (lambda text: replaced(text, files=[]), "files must be a dict, got list"),
    "file_as_text": (
        lambda text: replaced(text, files={"_C": "x"}),
        "files._C must be a dict, got str",
    ),
    "file_without_hash": (lambda text: replaced(text, files={"_C": {"size": 3}}), OLD),
    "size_as_text": (lambda text: replaced(text, files={"_C": {"size": "3", "sha256": ""}}), OLD),
    "missing_as_text": (
        lambda text: replaced(text, missing="_C"),
        "missing must be a dict, got str",
    ),
    "torch_as_number": (lambda text: replaced(text, torch=2.11), "torch must be a str, got float"),
    "sets_as_number": (
        lambda text: replaced(text, instruction_sets=[1]),
        "instruction_sets must hold names",
    ),
    "folder": (None, "build.json cannot be read: Is a directory"),
    "gone": ("gone", "build.json is not there, so that _C.so cannot be compared"),
}


def without(text, key):
    return json.dumps({k: v for k, v in json.loads(text).items() if k != key}).encode()


def replaced(text, **changes):
    return json.dumps({**json.loads(text), **changes}).encode()


@BUILT
def test_a_damaged_record_is_named(tmp_path):
    folders = []
    for name, (content, _) in RECORDS.items():
        folders.append(intact_copy(tmp_path / name))
        path = folders[-1] / "mpkernels" / "build.json"
        if content is None or content == "gone":
            path.unlink()
            if content is None:
                path.mkdir()
            continue
        path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))
    lines = messages_of_imports(folders)
    for (name, (_, message)), (*warnings, report) in zip(RECORDS.items(), lines, strict=True):
        (warning,) = warnings
        assert "on its eager definition" in warning and message in warning, (name, warning)
        assert "library _C (CPU)" in report, name


LOADED = "library _C (CPU): loaded"


@BUILT
def test_a_record_that_lacks_what_only_tells(tmp_path):
    folder = intact_copy(tmp_path)
    path = folder / "mpkernels" / "build.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: record[key] for key in ("files", "schemas")}))
    ((report,),) = messages_of_imports([folder])
    assert LOADED in " ".join(report.split()) and "needs torch:" in report


@BUILT
def test_a_whole_copy_warns_of_nothing(tmp_path):
    ((report,),) = messages_of_imports([intact_copy(tmp_path)])
    assert LOADED in " ".join(report.split())


@NODES
@pytest.mark.parametrize("change", [{"torch": "2.11.0"}, {"python": "3.10.1"}], ids=str)
def test_nodes_are_loaded_beside_what_they_were_built_for_alone(change, tmp_path):
    folder = intact_copy(tmp_path)
    path = folder / "mpkernels" / "build.json"
    path.write_bytes(replaced(path.read_text(), **change))
    ((report,),) = messages_of_imports([folder])
    assert "module _nodes: it was built for torch" in " ".join(report.split())
    assert LOADED in " ".join(report.split())


@BUILT
@pytest.mark.parametrize("name", PARTS)
def test_no_library_shows_where_it_was_built(name):
    content = (PACKAGE / f"{name}.so").read_bytes()
    for folder in (str(PACKAGE.parent), "/site-packages/", "/dist-packages/"):
        assert folder.encode() not in content


def test_an_error_of_the_library_names_its_file_alone():
    with pytest.raises(RuntimeError) as caught:
        torch.ops.mpkernels.mix([torch.ones(2, 3)], torch.ones(2, 2, 1))
    (place,) = set(re.findall(r"\S*csrc/\S+\.(?:h|cpp)", str(caught.value))) or {"csrc/"}
    assert place.startswith("csrc/"), place


WRITES = """
import json, os, runpy, sys
from pathlib import Path
import setuptools
setuptools.setup = lambda **options: None
names = runpy.run_path("setup.py")
build = object.__new__(names["Build"])
build.failures = {"_C_cuda": "no nvcc"}
path = Path(sys.stdin.read())
if path.exists():  # the disk is full, or the build is killed, between writing and renaming
    def fails(*_):
        raise OSError("full")
    os.replace = fails
build.write_record(path)
"""


def test_the_record_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "build.json"
    (tmp_path / "_C.so").write_bytes(b"content")
    (tmp_path / "_C_cuda.so").write_bytes(b"of an older build")
    succeeds(WRITES, input=str(path))
    before = path.read_text()
    assert json.loads(before)["files"] == {"_C": record_of(b"content")}
    (tmp_path / "_C.so").write_bytes(b"other content")
    result = python(WRITES, input=str(path))
    assert result.returncode != 0 and "full" in result.stderr
    assert path.read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["_C.so", "_C_cuda.so", "build.json"]


EXTENSIONS = """
import os, runpy
import setuptools
setuptools.setup = lambda **options: None
for value in ("", "1"):
    os.environ["MPKERNELS_EVERY_TORCH"] = value
    names = runpy.run_path("setup.py")
    print("mpkernels._nodes" in [each.name for each in names["extensions"]()])
"""


def test_a_build_for_every_torch_has_no_nodes():
    assert succeeds(EXTENSIONS).stdout.split() == ["True", "False"]


def test_a_bus_error_would_be_seen(tmp_path):
    """`messages_of_imports` reports a process that a signal ends."""
    folder = tmp_path / "mpkernels"
    folder.mkdir()
    (folder / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGBUS)\n")
    assert messages_of_imports([tmp_path]) == [[f"ended with {-signal.SIGBUS}"]]
