"""The demo runs, its figures agree with each other, and its picture is one."""

import json
import struct
import subprocess
import sys
from pathlib import Path

from models.demo import main, tolerance

ROOT = Path(__file__).parents[1]


def test_the_demo(tmp_path):
    arguments = ["--limit", "256", "--epochs", "1", "--rounds", "2", "--out", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-m", "models.demo", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode in (0, 1), run.stderr  # 1: two steps do not reach equal accuracy
    result = json.loads((tmp_path / "demo.json").read_text())
    ms = result["milliseconds"]
    assert result["routers_speedup"] == ms["eager routers"] / ms["fused routers"]
    assert result["step_speedup"] == ms["eager step"] / ms["fused step"]
    assert all(ms[f"{kind} routers"] < ms[f"{kind} step"] for kind in ("fused", "eager"))
    assert run.returncode == (0 if result["apart"] <= result["allowed"] else 1)
    assert f"{result['routers_speedup']:.2f} times as fast" in run.stdout
    png = (tmp_path / "demo.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and width > 800 and height > 800


def test_the_tolerance_is_three_standard_errors():
    assert tolerance(1.0, 355) == 1
    assert tolerance(0.5, 200) == 1 + 30


def test_bad_arguments(capsys):
    assert main(["--rounds", "0"]) == 2
    assert "rounds must be at least 1, got 0" in capsys.readouterr().err
    assert main(["--data", "folder"]) == 2
    assert "name it with --data-dir" in capsys.readouterr().err
