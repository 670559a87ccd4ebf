"""`python -m mpkernels`: the environment report, then a self-test of every backend that works."""

from __future__ import annotations

import argparse
import sys

from mpkernels import report, selftest


def main() -> int:
    """Prints the report and the self-test; returns 0 only if every check passed."""
    parser = argparse.ArgumentParser(prog="python -m mpkernels", description=__doc__)
    parser.add_argument(
        "--self-test",
        choices=selftest.BACKENDS,
        metavar="BACKEND",
        help="only the self-test, of one backend: " + ", ".join(selftest.BACKENDS),
    )
    arguments = parser.parse_args()
    if arguments.self_test:
        return 0 if selftest.run([arguments.self_test]) else 1
    print(report.report())
    print()
    return 0 if selftest.run(selftest.BACKENDS) else 1


if __name__ == "__main__":
    sys.exit(main())
