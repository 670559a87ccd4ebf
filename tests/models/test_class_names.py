"""Classes of any name in pictures and tables."""

import pytest

from models.paper import pictures
from models.paper.labels import cell, one_line
from models.training import curves

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

NAMES = ["$10_^{2$", "a|b", "two\nlines", "`tick`", "\u05e9\u05dc\u05d5\u05dd", "\U0001f600",
         "half\udcff", "\x07bell", "_", "\u2028", "long " * 51, "\\frac{", "%s", ""]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_pictures_of_any_name(name, tmp_path):
    pictures.confusion(tmp_path / "confusion.png", "$\\title{", [name, "b"], [[1, 0], [0, 1]])
    if name.isprintable() and len(name) < 99:
        points = [pictures.Point(name, 10, 50.0, 1.0, False)]
        pictures.comparison(tmp_path / "accuracies.png", name, points)
        line = {"epoch": 1, **dict.fromkeys(("train_loss", "test_loss"), 1.0)}
        line |= dict.fromkeys(("train_accuracy", "test_accuracy"), 0.5)
        curves.plot(tmp_path / "curves.png", name, [line, line])
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in tmp_path.iterdir())


def test_a_long_name_leaves_room_for_the_picture(tmp_path):
    """Ticks of any length would leave no room for what they name, with a warning."""
    pictures.confusion(tmp_path / "confusion.png", "", ["x" * 255] * 20, [[1] * 20] * 20)


def test_names_in_a_table():
    assert cell("a|b") == "a\\|b" and cell("`x`") == "\\`x\\`" and cell("$1$") == "\\$1\\$"
    assert cell("two\nlines") == "two\\\\nlines" and cell("T-shirt/top") == "T-shirt/top"
    assert one_line("half\udcff\x07\u2028") == "half\\udcff\\x07\\u2028"
    for name in NAMES:
        assert len(cell(name).encode().splitlines()) <= 1
    assert one_line("\u05e9 \U0001f600 caf\u00e9") == "\u05e9 \U0001f600 caf\u00e9"
