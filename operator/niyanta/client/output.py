"""Output: results on stdout in the format of -o (table, wide, json, yaml, id, name), everything else on stderr."""

from __future__ import annotations

import enum
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

FULL_WIDTH = 32_000
"""Columns. Wide enough that no value is cut or folded: scripts need whole values, and terminals fold lines."""


class Output(enum.Enum):
    """Value of -o."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    ID = "id"
    NAME = "name"
    """As kubectl takes them: workloads.niyanta.io/NAME."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: `cell` makes its text from an item. `wide`: only shown with -o wide."""

    title: str
    cell: Callable[[Any], str]
    wide: bool = False
    right: bool = False
    style: Callable[[Any], str] | None = None
    """Rich style of the cell; only terminals show colours."""


def stdout() -> Console:
    """The console for results. A new one each time, because stdout may have been redirected."""
    return Console(width=FULL_WIDTH, highlight=False, soft_wrap=True, emoji=False)


def screen() -> Console:
    """The console for output that fits the terminal's width."""
    return Console(width=None if sys.stdout.isatty() else FULL_WIDTH, highlight=False, emoji=False)


def stderr() -> Console:
    """The console for notices and progress."""
    terminal = sys.stderr.isatty()
    width = None if terminal else FULL_WIDTH
    return Console(stderr=True, width=width, highlight=False, soft_wrap=not terminal, emoji=False)


def table(items: Iterable[Any], columns: Sequence[Column], *, wide: bool, title: str | None = None) -> Table:
    """A table like kubectl's: no borders, one line per item."""
    shown = [column for column in columns if wide or not column.wide]
    made = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, title=title, title_justify="left")
    made.show_edge = False
    made.pad_edge = False
    for index, column in enumerate(shown):
        made.add_column(
            column.title.upper(),
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis" if index else "fold",
        )
    for item in items:
        made.add_row(*(_cell(column, item) for column in shown))
    return made


def _cell(column: Column, item: Any) -> str:
    text = escape(clean(column.cell(item)))
    style = column.style(item) if column.style else ""
    return f"[{style}]{text}[/]" if style and text else text


def clean(text: str) -> str:
    """The text with control characters replaced: names and messages are untrusted, and terminals act on them."""
    return "".join(char if char.isprintable() else " " for char in text)


def dump(value: Any, output: Output) -> str:
    """The value as JSON or YAML."""
    if output is Output.JSON:
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


# --- Values ----------------------------------------------------------------------------------------------------------


def parse_time(value: Any) -> datetime | None:
    """An RFC 3339 time; None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def age(value: Any, *, now: datetime | None = None) -> str:
    """Time since `value` in kubectl's form."""
    then = parse_time(value)
    return "" if then is None else duration(((now or datetime.now(UTC)) - then).total_seconds())


def duration(seconds: float | None) -> str:
    """A duration in kubectl's form: 42s, 5m12s, 3h10m, 2d4h."""
    if seconds is None:
        return ""
    whole = max(0, int(seconds))
    for limit, big, small, one, two in ((3600, 60, 1, "m", "s"), (86_400, 3600, 60, "h", "m")):
        if whole < 60:
            return f"{whole}s"
        if whole < limit:
            rest = whole % big // small
            return f"{whole // big}{one}" + (f"{rest}{two}" if rest else "")
    rest = whole % 86_400 // 3600
    return f"{whole // 86_400}d" + (f"{rest}h" if rest else "")


def seconds(text: str | float) -> float:
    """Seconds of a duration: a number, or a number with a unit; raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(text).strip())
    if found is None:
        raise ValueError(f"{text!r} is not a duration such as 90, 90s, 15m, 2h or 7d")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]]


def number(value: Any) -> str:
    """A number with at most one decimal; empty for None."""
    if value is None or isinstance(value, bool):
        return ""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def joined(values: Any) -> str:
    """A list as comma-separated text."""
    return ",".join(map(str, values)) if isinstance(values, list | tuple) else str(values or "")
