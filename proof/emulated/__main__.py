"""Launches from C++ held against Triton's own: `python -m proof.emulated [NAME ...]`.

Needs no GPU: an emulated libcuda records what either would launch. Prints one line of JSON, check
-> what is wrong, or null.
"""

from __future__ import annotations

import json
import sys
import traceback

from proof.emulated import checks
from proof.emulated.driver import emulate


def main(names: list[str]) -> int:
    """Runs the checks of these names, or all quick ones."""
    emulation, known = emulate(), {**checks.CHECKS, **checks.SLOW_CHECKS}
    wrong: dict[str, str | None] = {}
    for name in names or checks.CHECKS:
        try:
            known[name](emulation)
            wrong[name] = None
        except Exception:
            wrong[name] = traceback.format_exc()
    print(json.dumps(wrong))
    return 0 if not any(wrong.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
