"""Names of classes, which may hold any character, as they are shown."""

from __future__ import annotations

import re
import unicodedata

# Control characters, halves of a character that UTF-8 cannot write, and breaks of lines.
_INVISIBLE = {"Cc", "Cs", "Zl", "Zp"}


def one_line(name: str) -> str:
    r"""A name in one line that every file can hold: what is invisible is escaped, as in "\n"."""
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter) in _INVISIBLE
        else letter
        for letter in name
    )


def cell(name: str) -> str:
    r"""A name in a table of Markdown, which shows it as it is: "a|b" becomes "a\|b"."""
    return re.sub(r"([\\`*|<>&\[\]$~])", r"\\\1", one_line(name))
