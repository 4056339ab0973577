"""Label selectors in the notation of URLs: `gpu=a100,region in (eu,us),!spot`. `routes` selects pools by them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from niyanta.engine.label_expressions import label_matches
from niyanta.engine.types import Op

Labels = Mapping[str, str]
Selects = Callable[[Labels], bool]

_KEY = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9]?(?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_TERM = re.compile(
    rf"""\s*(?:
        (?P<among>{_KEY})\s+(?P<not>notin|in)\s*\((?P<values>[^()]*)\)
      | (?P<equal>{_KEY})\s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE})
      | (?P<absent>!)?\s*(?P<exists>{_KEY})
    )\s*(?:,|$)""",
    re.VERBOSE,
)


def parse(text: str) -> Selects:
    """The predicate of a selector; an empty selector selects everything.

    Raises ValueError, whose text shows the part that can't be parsed.
    """
    terms: list[Selects] = []
    position = 0
    while text[position:].strip():
        found = _TERM.match(text, position)
        if found is None:
            raise ValueError(f"the label selector can't be read from {text[position : position + 40]!r} on")
        terms.append(_term(found))
        position = found.end()
    if text.rstrip().endswith(","):
        raise ValueError("the label selector ends with a comma")
    return lambda labels: all(term(labels) for term in terms)


def _term(found: re.Match[str]) -> Selects:
    if key := found["among"]:
        values = frozenset(value.strip() for value in found["values"].split(","))
        op = Op.IN if found["not"] == "in" else Op.NOT_IN
    elif key := found["equal"]:
        values = frozenset((found["value"],))
        op = Op.NOT_IN if found["operator"] == "!=" else Op.IN
    else:
        key, values = found["exists"], frozenset()
        op = Op.DOES_NOT_EXIST if found["absent"] else Op.EXISTS
    return lambda labels: label_matches(labels, key, op, values)
