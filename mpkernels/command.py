"""The command `mpkernels`: each of its commands is a module, imported when it is asked for."""

from __future__ import annotations

import difflib
import os
import select
import signal
import sys
from collections.abc import Callable
from importlib import import_module

# Command -> its module, and what it does: the first line of the module's docstring.
COMMANDS = {
    "train": ("mpkernels.models.train", "Trains a network."),
    "evaluate": ("mpkernels.models.evaluate", "Evaluates trained networks."),
    "predict": ("mpkernels.models.predict", "Labels pictures with a trained network."),
    "compare": ("mpkernels.models.compare", "Trains a table of the paper and reports on it."),
    "look": (
        "mpkernels.models.look.__main__",
        "Shows what a trained network's routers do.",
    ),
    "table": (
        "mpkernels.models.table",
        "Parameters of every network beside the paper's figures.",
    ),
    "routing": ("mpkernels.models.routing", "Does the routing route? The experiment on it."),
    "data": ("mpkernels.models.data.__main__", "Measures how fast training images are read."),
    "report": ("mpkernels.report", "What was built, found and loaded here; then a self-test."),
}
WIDTH = max(map(len, COMMANDS))


def listed() -> str:
    """All commands, one a line."""
    lines = [f"  {name:<{WIDTH}}  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        ["usage: mpkernels COMMAND ...", "", *lines, "", "mpkernels COMMAND --help says more."]
    )


def until_the_reader_leaves(run: Callable[[], int]) -> int:
    """The exit status of `run`, or 141 where who reads its output has read enough, as `head`."""
    try:
        status = run()
        if sys.stdout:  # a process may have none
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout, 0)
        if not output.poll(0):
            raise  # it is another pipe that broke
        # What is left would break as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that the first argument names.

    Returns:
        the exit status: that of the command, or 2 where there is no such command or the packages
        that it needs are not installed, or 141 where nobody reads on.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(listed())
        return 0
    name, *rest = words
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"it is one of {', '.join(COMMANDS)}"
        print(f"mpkernels: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    try:
        module = import_module(COMMANDS[name][0])
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "mpkernels"):
            raise
        hint = f"{missing} is not installed: pip install 'mpkernels[models]'"
        print(f"mpkernels {name}: {hint}", file=sys.stderr)
        return 2
    return until_the_reader_leaves(lambda: module.main(rest))
