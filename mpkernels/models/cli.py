"""What the command lines share: name, help, and options that several commands have."""

from __future__ import annotations

import argparse
import difflib
import io
import re
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TextIO

import torch

from mpkernels.command import until_the_reader_leaves


def program(command: str) -> str:
    """The words with which the user called a command."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else ""
    if module.endswith(f"models.{command}"):
        return f"python -m {module}"
    return f"python -m mpkernels {command}" if module == "mpkernels" else f"mpkernels {command}"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Text as it is written, and the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is None or default is False or default in (argparse.SUPPRESS, []):
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{action.help or ''} (default: {shown.replace('%', '%%')})".strip()


class _Parser(argparse.ArgumentParser):
    """Names the nearest word where one is not known."""

    def error(self, message: str) -> NoReturn:
        """Ends with status 2, as every argparse does."""
        wrong = re.search(r"invalid choice: '([^']+)'|unrecognized arguments: (--[\w-]+)", message)
        known = [word for action in self._actions for word in action.option_strings]
        known += [str(word) for action in self._actions for word in action.choices or ()]
        for word in filter(None, wrong.groups() if wrong else ()):
            if close := difflib.get_close_matches(word, known, n=1):
                message += f"; did you mean {close[0]}?"
        super().error(message)


def parser_for(command: str, about: str | None, example: str) -> argparse.ArgumentParser:
    """A command line whose help shows defaults and an example.

    Args:
        command: its name, `train` of `mpkernels train`.
        about: what it does; the docstring of its module.
        example: arguments that somebody might give.
    """
    return _Parser(
        prog=program(command), description=about, formatter_class=_Help,
        epilog=f"example:\n  %(prog)s {example}",
    )  # fmt: skip


def _show(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    """Writes a warning as the command's own words, without the place that raised it."""
    print(f"warning: {message}", file=sys.stderr)


def run(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    work: Callable[[argparse.Namespace], int | None],
    stopped: str = "",
) -> int:
    """Runs a command, which can print any text and whose errors and warnings are lines.

    A terminal's encoding may lack characters, as of a class's name; they are written as escapes.

    Args:
        parser: its command line.
        arguments: what the user wrote; None takes those of this process.
        work: what it does with the options; it returns the exit status, None for 0.
        stopped: what to say to somebody who stops it.

    Returns:
        the exit status: that of `work`, 2 for bad input or numbers that are not finite, 130 for
        Ctrl-C, 141 where nobody reads on, 143 for SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = parser.parse_args(arguments)

    def status() -> int:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show
                return work(options) or 0
        except KeyboardInterrupt as stop:
            if stopped:
                print(f"\n{stopped}", file=sys.stderr)
            return 128 + int(getattr(stop, "signal", signal.SIGINT))
        except BrokenPipeError:
            raise
        except (ValueError, OSError, FloatingPointError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return until_the_reader_leaves(status)


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Adds --data-dir."""
    parser.add_argument(
        "--data-dir", type=Path, help="where the images are, if not in the usual place"
    )


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Adds --classes."""
    parser.add_argument("--classes", type=int, help="use only the first classes of imagenet")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Adds --workers."""
    parser.add_argument("--workers", type=int, default=0, help="processes that read imagenet")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds --device."""
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="(default: a GPU if there is one)"
    )


def device_of(options: argparse.Namespace) -> str:
    """The device that --device names; by default a GPU if there is one."""
    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")
