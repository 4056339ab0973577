"""Label selectors as URLs carry them: `gpu=a100,region in (eu,us),!spot`.

`adapter_api` asks which pools one selects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

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
    """What `text` selects; an empty one selects everything. Raises ValueError with the place it can't be read from."""
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
        wanted = found["not"] == "in"
        # As in Kubernetes, `notin` and `!=` select what has no such label at all.
        return lambda labels: (labels[key] in values) is wanted if key in labels else not wanted
    if key := found["equal"]:
        value, same = found["value"], found["operator"] != "!="
        return lambda labels: (labels[key] == value) is same if key in labels else not same
    key, present = found["exists"], not found["absent"]
    return lambda labels: (key in labels) is present
