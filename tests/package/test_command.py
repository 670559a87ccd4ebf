"""The command `mpkernels`, and the help of each of its commands."""

import importlib
import re
import shlex
import subprocess
import sys

import pytest

from mpkernels import command
from proof.fresh import python, succeeds
from proof.where import ROOT

NETWORKS = [name for name in command.COMMANDS if name != "report"]


def module_of(name):
    return importlib.import_module(command.COMMANDS[name][0])


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_it_lists_its_commands(words, capsys):
    assert command.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, about) in command.COMMANDS.items():
        assert [line for line in lines if line.split()[:1] == [name] and line.endswith(about)]


@pytest.mark.parametrize("name", command.COMMANDS)
def test_what_the_list_says_is_what_the_help_says(name):
    assert module_of(name).__doc__.splitlines()[0] == command.COMMANDS[name][1]


def test_every_command_is_listed():
    paths = [*(ROOT / "models").glob("*.py"), *(ROOT / "models").glob("*/__main__.py")]
    runs = [path for path in paths if 'if __name__ == "__main__"' in path.read_text()]
    names = {path.parent.name if path.stem == "__main__" else path.stem for path in runs}
    assert names == set(NETWORKS)


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bin/mpkernels", name, "--help"])
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit, match="0"):
        command.main([name, "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: mpkernels {name} [-h]")
    assert re.search(rf"^example:\s+mpkernels {name} \S", text, re.M)


@pytest.mark.parametrize("name", NETWORKS)
def test_help_shows_defaults_and_an_example_that_parses(name, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    parser = module_of(name).command_line()
    text = parser.format_help()
    words = " ".join(text.split())
    for action in parser._actions:
        assert action.help, action.dest
        default = action.default
        if default not in (None, False, "==SUPPRESS==") and default != []:
            shown = " ".join(map(str, default)) if isinstance(default, list) else default
            assert f"{action.help} (default: {shown})" in words
    assert "(default: None)" not in text and "(default: False)" not in text
    _, _, example = text.partition("example:\n")
    parser.parse_args(shlex.split(example)[2:])


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        (["models.train"], "python -m models.train"),
        (["models.data"], "python -m models.data"),
        (["mpkernels.models.table"], "python -m mpkernels.models.table"),
        (["mpkernels", "train"], "python -m mpkernels train"),
    ],
)
def test_it_is_called_as_the_user_called_it(module, shown):
    done = subprocess.run(
        [sys.executable, "-m", *module, "--none"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: {shown} [-h]"), done.stderr
    assert f"\n{shown}: error: " in done.stderr


@pytest.mark.parametrize(
    ("word", "hint"),
    [("trian", "did you mean train?"), ("Q", f"it is one of {', '.join(command.COMMANDS)}")],
)
def test_a_command_that_is_not_there(word, hint, capsys):
    assert command.main([word]) == 2
    assert capsys.readouterr().err == f"mpkernels: there is no command {word!r}; {hint}\n"


def test_a_command_is_imported_when_it_is_asked_for():
    succeeds("""
        import sys
        from mpkernels import command
        command.main([])
        assert not [name for name in sys.modules if name.startswith("mpkernels.models")]
        assert "mpkernels.report" not in sys.modules
    """)


@pytest.mark.parametrize("name", ["train", "evaluate", "compare", "routing"])
def test_a_package_that_is_not_installed(name):
    """One line says what to install."""
    done = python(f"""
        import sys
        from mpkernels.command import main
        sys.modules["safetensors"] = None
        sys.exit(main([{name!r}, "--help"]))
    """)
    assert done.returncode == 2
    hint = "safetensors is not installed: pip install 'mpkernels[models]'"
    assert done.stderr == f"mpkernels {name}: {hint}\n"


def test_an_error_of_our_own_is_not_taken_for_a_missing_package(monkeypatch):
    monkeypatch.setitem(command.COMMANDS, "gone", ("mpkernels.gone", ""))
    with pytest.raises(ModuleNotFoundError, match="No module named 'mpkernels.gone'"):
        command.main(["gone"])
