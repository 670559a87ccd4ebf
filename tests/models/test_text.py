"""Text is UTF-8 wherever the user's locale is, and what a terminal lacks is no error."""

import ast
import os
import subprocess
import sys

import pytest

from models.train import main
from models.training.files import write_text
from models.training.recipe import read
from proof.where import ROOT

# Of a call in text mode, the position of the encoding after the object's own arguments.
POSITIONS = {"read_text": 0, "write_text": 1, "reconfigure": 9}
SOURCES = [
    *(ROOT / "mpkernels").rglob("*.py"),
    ROOT / "hubconf.py",
    ROOT / "setup.py",
]


def without_encoding(path):
    """Lines of a file that read or write a text in the encoding of the user's locale."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        mode = [a.value for a in node.args if isinstance(a, ast.Constant)] + [
            v.value for k, v in named.items() if k == "mode" and isinstance(v, ast.Constant)
        ]
        binary = any(isinstance(m, str) and "b" in m and len(m) <= 3 for m in mode)
        opens = name in ("open", "fdopen", "NamedTemporaryFile") and not binary
        opens &= ast.unparse(node.func) not in ("os.open", "Image.open")
        runs = "text" in named or "universal_newlines" in named
        text = name in ("read_text", "write_text") and not (
            isinstance(node.func, ast.Attribute) and len(node.args) > POSITIONS[name]
        )
        # A function of the project's own, which takes a path.
        text &= isinstance(node.func, ast.Attribute)
        if (text or opens or runs) and "encoding" not in named:
            yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_text_is_read_and_written_as_utf_8():
    assert [line for path in SOURCES for line in without_encoding(path)] == []


def test_the_search_finds_what_it_seeks(tmp_path):
    (path := ROOT / "mpkernels/models/training/sought.py").relative_to(ROOT)
    lines = ("p.read_text()", "p.write_text(t)", "open(p)", "p.open('w')", "run(a, text=True)")
    fine = ("p.read_text('utf-8')", "p.write_text(t, 'utf-8')", "open(p, 'rb')", "os.open(p, 1)")
    source = type("Source", (), {})()
    source.read_text = lambda encoding: "\n".join((*lines, *fine))
    source.relative_to = lambda root: path.name
    assert [*without_encoding(source)] == [f"sought.py:{at + 1}" for at in range(len(lines))]


def test_a_recipe_may_have_a_byte_order_mark(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes("\N{BYTE ORDER MARK}# für Anton\nepochs = 3\n".encode())
    assert read(str(path)).epochs == 3


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_recipe_in_another_encoding_is_named(encoding, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes("# für Anton\nepochs = 3\n".encode(encoding))
    with pytest.raises(ValueError, match=f"recipe: {path} is not in UTF-8"):
        read(str(path))


def test_names_that_are_no_utf_8_are_written_as_escapes(tmp_path):
    write_text(tmp_path / "a.md", "é \udce9")
    assert (tmp_path / "a.md").read_bytes() == b"\xc3\xa9 \\udce9"


PICTURES = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
for part in ("train", "test"):
    for name in ("Fr\\u00fchst\\u00fcck", "\\u98df"):
        folder = Path(sys.argv[1]) / part / name
        folder.mkdir(parents=True)
        for at in range(4):
            pixels = np.random.default_rng(at).integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{at}.png")
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_commands_print_what_a_terminal_cannot_show(encoding, tmp_path):
    plain = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    strange = {**plain, **locale, "PYTHONIOENCODING": f"{encoding}:strict"}
    code = [sys.executable, "-c", PICTURES, str(tmp_path / "images")]
    subprocess.run(code, check=True, env=plain)
    out = tmp_path / "run"
    small = ["--option", "stages=((4,),(4,))", "--option", "dense=(4,4)", "--epochs", "1"]
    images = ["--data", "folder", "--data-dir", str(tmp_path / "images"), "--out", str(out)]
    for command in (["train", "basecnn_2_cc", *images, *small], ["evaluate", str(out), *images]):
        result = subprocess.run(
            [sys.executable, "-m", "mpkernels", *command], cwd=ROOT, env=strange,
            capture_output=True, encoding="latin-1",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    names = ("Fr\u00fchst\u00fcck", "\u98df")
    for name in names:
        assert name.encode(encoding, "backslashreplace").decode("latin-1") in result.stdout
        assert name in (out / "evaluation.md").read_text("utf-8")


def test_typing_errors_are_guessed(capsys, tmp_path):
    arguments = ["basecnn", "--data", "digits", "--out", str(tmp_path / "none")]
    assert main([*arguments, "--recipe", "cifar_cn"]) == 2
    assert "(did you mean cifar_cnn?), got 'cifar_cn'" in capsys.readouterr().err
    (tmp_path / "a.toml").write_text("learnig_rate = 0.1\n")
    assert main([*arguments, "--recipe", str(tmp_path / "a.toml")]) == 2
    assert "learnig_rate is not one of epochs, " in (error := capsys.readouterr().err)
    assert "(did you mean learning_rate?)" in error
