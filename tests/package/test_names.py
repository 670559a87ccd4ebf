"""Every file or function of the project that prose names exists."""

import ast
import builtins
import io
import re
import tokenize

import pytest

from proof.where import ROOT

ROOMS = ("mpkernels", "csrc", "models", "benchmarks", "tests", "proof", "examples", "docs", ".ci")
FILES = sorted(
    path.relative_to(ROOT)
    for room in (ROOT, *(ROOT / room for room in ROOMS))
    for path in (room.glob("*") if room == ROOT else room.rglob("*"))
    if path.is_file() and "__pycache__" not in path.parts
)
PYTHON = [path for path in FILES if path.suffix == ".py"]
CPP = [path for path in FILES if path.suffix in (".h", ".cpp", ".cu", ".cuh")]
PROSE = [path for path in FILES if path.suffix == ".md" and "results" not in path.parts]
COMMENT = re.compile(r"//[^\n]*")
NAMED_FILE = re.compile(r"(?<![\w:/.-])[\w.-]*\w(?:/[\w.-]+)*\.(?:py|h|cpp|cu|cuh)\b")
NAMED = re.compile(r"(?<!`)`([A-Za-z_]\w*(?:\.\w+)*)(?:\([^`]*\))?`(?!`)")
WORD = re.compile(r"[A-Za-z_]\w+")
# An option of PyTorch, a header of CUDA, and names that are composed at run time.
ELSEWHERE = {"capturable", "include/cuda_runtime.h", "table3", "table4"}


def text_of(path):
    return (ROOT / path).read_text()


def split(path):
    """The prose of a file, and its code, which includes strings."""
    source = text_of(path)
    if path in CPP:
        return "\n".join(COMMENT.findall(source)), COMMENT.sub("", source)
    if path in PROSE:
        return re.sub(r"```.*?```", "", source, flags=re.S), ""
    comments = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    docstrings = [ast.get_docstring(node, clean=False) or "" for node in nodes]
    for text in (*comments, *docstrings):
        source = source.replace(text, "")
    return "\n".join([*comments, *docstrings]), source


SPLIT = {path: split(path) for path in (*PYTHON, *CPP, *PROSE)}
CODE = {word for _, code in SPLIT.values() for word in WORD.findall(code)}
CODE |= {*dir(builtins), *(part for path in FILES for part in (path.stem, *path.parts))}
CODE |= {word for name in ("pyproject.toml", "Makefile") for word in WORD.findall(text_of(name))}


def missing(prose):
    """The names in prose that are neither a file nor a word of the code."""
    files = set(NAMED_FILE.findall(prose))
    files -= {name for name in files if any(f"/{f.as_posix()}".endswith(f"/{name}") for f in FILES)}
    names = {part for name in NAMED.findall(prose) for part in name.split(".")}
    return sorted((files | {name for name in names if len(name) > 1} - CODE) - ELSEWHERE)


@pytest.mark.parametrize("path", SPLIT, ids=str)
def test_what_prose_names_is_there(path):
    prose, _ = SPLIT[path]
    assert missing(prose) == []


def test_a_name_that_points_nowhere_is_found():
    gone = "van" + "ished"  # composed, so that no source contains it
    prose = f"see `{gone}_at_all`, `{gone}()`, csrc/cpu/{gone}.h; `mix` is in cpu/mix.cpp"
    assert missing(prose) == [f"csrc/cpu/{gone}.h", gone, f"{gone}_at_all"]
