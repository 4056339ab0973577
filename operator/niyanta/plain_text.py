"""Text of users, nodes and servers, made safe to store and to show: in one line, without control characters, and of
bounded length."""

from __future__ import annotations

import unicodedata

MESSAGE_CHARACTERS = 1024
REASON_CHARACTERS = 128


def plain(text: str, most: int = MESSAGE_CHARACTERS) -> str:
    """`text` in one line of at most `most` characters. Control, format and surrogate characters become spaces, and
    spaces in a row one space; text that was cut ends in an ellipsis."""
    head = text[: 4 * most]  # bounds the work on a long text
    shown = "".join(" " if unicodedata.category(character) in _UNSHOWN else character for character in head)
    line = " ".join(shown.split())
    return line if len(line) <= most and len(head) == len(text) else line[: most - 1] + "…"


_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
