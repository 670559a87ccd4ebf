"""`python -m mpkernels`: the report with its self-test; with a command, what `mpkernels` does."""

from __future__ import annotations

import sys

from mpkernels import command


def main() -> int:
    """Runs the named command, by default the report; returns its exit status."""
    words = sys.argv[1:]
    named = bool(words) and not words[0].startswith("-")
    return command.main(words if named else ["report", *words])


if __name__ == "__main__":
    sys.exit(main())
