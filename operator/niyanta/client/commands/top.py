"""`niyanta top`: the queue, the workers and what runs, live."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from niyanta.client import tables
from niyanta.client.context import Context, command
from niyanta.client.errors import RefusedError, UnavailableError
from niyanta.client.output import Column, clean, duration, screen, table
from niyanta.lifecycle import Phase

BAR = 16
SHOWN_WORKLOADS = 15
_ACTIVE = [Phase.RUNNING.value, Phase.SCHEDULED.value]


@dataclass(slots=True)
class QueueOverview:
    """What is shown at one moment."""

    depth: Mapping[str, Any] = field(default_factory=dict)
    workers: Sequence[Any] = ()
    active: Sequence[Any] = ()
    waiting: Sequence[Any] = ()
    trouble: str = ""


@command
def top(
    session: Context,
    once: Annotated[bool, typer.Option("--once", help="Show one picture and end.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two pictures.", min=0.5)] = 2.0,
    workers: Annotated[int, typer.Option("--workers", help="Most workers shown, the fullest first.", min=0)] = 20,
) -> None:
    """Show the queue, the workers and the newest workloads, live, until Ctrl-C.

    Without a terminal: one picture after another.
    """
    console = screen()
    picture = look(session, QueueOverview())
    if once or not console.is_terminal:
        while True:
            console.print(render(picture, workers))
            if once:
                return
            console.print()
            time.sleep(interval)
            picture = look_again(session, picture)
    # Ctrl-C is the way out of it, and no failure.
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(render(picture, workers), console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(interval)
            picture = look_again(session, picture)
            live.update(render(picture, workers), refresh=True)


def look(session: Context, before: QueueOverview) -> QueueOverview:
    """Asks for everything; customers' keys that may not see workers still see the queue."""
    api = session.api
    try:
        found = list(api.pages("/v1/workers"))
    except RefusedError as error:
        if error.status not in (403, 404):
            raise
        found = list(before.workers)
    return QueueOverview(
        depth=api.get("/v1/metrics/queue-depth"),
        workers=found,
        active=list(api.pages("/v1/workloads", {"status": _ACTIVE}, limit=SHOWN_WORKLOADS)),
        waiting=list(api.pages("/v1/workloads", {"status": [Phase.PENDING.value]}, limit=SHOWN_WORKLOADS)),
    )


def look_again(session: Context, before: QueueOverview) -> QueueOverview:
    """A server that is away doesn't end a live view: the last picture stays, with a word on it."""
    try:
        return look(session, before)
    except UnavailableError as error:
        return QueueOverview(before.depth, before.workers, before.active, before.waiting, trouble=str(error))


def render(picture: QueueOverview, most_workers: int) -> RenderableType:
    """The whole page."""
    parts: list[RenderableType] = [_headline(picture), Text(""), table(_queues(picture.depth), _QUEUES, wide=False)]
    if picture.workers and most_workers:
        fullest = sorted(picture.workers, key=lambda item: (-_fullness(item), item["name"]))[:most_workers]
        parts += [Text(""), table(fullest, _WORKERS, wide=False)]
        if len(picture.workers) > most_workers:
            parts.append(Text(f"and {len(picture.workers) - most_workers} more workers", style="dim"))
    workloads = [*picture.active, *picture.waiting][:SHOWN_WORKLOADS]
    if workloads:
        parts += [Text(""), table(workloads, _WORKLOADS, wide=False)]
    return Group(*parts)


def _headline(picture: QueueOverview) -> Text:
    depth, workers = picture.depth, picture.workers
    ready = sum(1 for item in workers if tables.worker_state(item) == "Ready")
    parts = [
        f"niyanta top {datetime.now().astimezone():%H:%M:%S}",
        f"{depth.get('total', 0)} pending, {depth.get('held', 0)} held, {depth.get('suspended', 0)} suspended",
    ]
    if depth.get("oldestAgeSeconds") is not None:
        parts.append(f"oldest {duration(depth['oldestAgeSeconds'])}")
    if workers:
        parts.append(f"{ready} of {len(workers)} workers ready")
    line = Text("  |  ".join(parts), style="bold")
    if picture.trouble:
        line.append(f"\n{clean(picture.trouble)}; the figures are old", style="red")
    return line


def _queues(depth: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [row for row in tables.depth_rows(depth) if row["of"] in ("tier", "customer", "pool")]
    most = max((row["pending"] for row in rows), default=0)
    kept: list[dict[str, Any]] = []
    for kind in ("tier", "customer", "pool"):
        kept += [{**row, "most": most} for row in rows if row["of"] == kind][:5]
    return kept


def bar(part: float | None) -> str:
    """A bar of text; empty for nothing to show."""
    if part is None:
        return ""
    filled = round(min(max(part, 0.0), 1.0) * BAR)
    return "#" * filled + "." * (BAR - filled)


def _fullness(item: Mapping[str, Any]) -> float:
    parts = [tables.fraction(item, name) for name in ("cpu", "memory", tables.gpu_resource(item)) if name]
    return max((part for part in parts if part is not None), default=0.0)


_QUEUES = (*tables.DEPTHS, Column("", lambda item: bar(item["pending"] / item["most"] if item["most"] else None)))
_WORKERS = (*tables.WORKERS[:4], Column("Used", lambda item: bar(_fullness(item))), *tables.WORKERS[4:])
_WORKLOADS = tuple(column for column in tables.WORKLOADS if column.title not in ("Id", "Score"))
