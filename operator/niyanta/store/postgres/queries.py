"""Named SQL: the files in store/sql/ have `-- name: x` blocks, and `-- fragment: x` blocks that `{{x}}` inserts.

The SELECT lists of rows are fragments too, generated from `columns`.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from niyanta.store.columns import FRAGMENTS

_HEAD = re.compile(r"^-- (name|fragment): (\w+)[ \t]*$", re.MULTILINE)
_PASTE = re.compile(r"\{\{(\w+)\}\}")


@cache
def _library() -> dict[str, bytes]:
    """Every named statement, as bytes for psycopg."""
    statements: dict[str, str] = {}
    fragments: dict[str, str] = dict(FRAGMENTS)
    for file in files("niyanta.store").joinpath("sql").iterdir():
        if not file.name.endswith(".sql"):
            continue
        _, *blocks = _HEAD.split(file.read_text(encoding="utf-8"))
        for kind, name, body in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True):
            target = statements if kind == "name" else fragments
            if name in target:
                raise ValueError(f"SQL {kind} {name} is defined twice")
            target[name] = body.strip().rstrip(";")
    return {name: _PASTE.sub(lambda match: fragments[match[1]], body).encode() for name, body in statements.items()}


def sql(name: str) -> bytes:
    """The statement with this name; KeyError if unknown."""
    return _library()[name]


def names() -> frozenset[str]:
    """All statement names."""
    return frozenset(_library())
