"""`niyanta top`: a live view of the queue, the workers and the newest workloads."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
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

BAR_WIDTH = 16
SHOWN_WORKLOADS = 15
POLL_SECONDS = 0.1
"""Longest time until the view ends after Ctrl-C."""
_ACTIVE = [Phase.RUNNING.value, Phase.SCHEDULED.value]


@dataclass(slots=True)
class QueueOverview:
    """Data of one refresh."""

    depth: Mapping[str, Any] = field(default_factory=dict)
    workers: Sequence[Any] = ()
    active: Sequence[Any] = ()
    waiting: Sequence[Any] = ()
    trouble: str = ""


@command
def top(
    context: Context,
    once: Annotated[bool, typer.Option("--once", help="Show it once and exit.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between refreshes.", min=0.5)] = 2.0,
    workers: Annotated[
        int, typer.Option("--workers", help="Maximum number of workers to show, the fullest first.", min=0)
    ] = 20,
) -> None:
    """Show the queue, the workers and the newest workloads, live, until Ctrl-C.

    Without a terminal, each refresh is printed below the previous one.
    """
    console = screen()
    overview = fetch(context, QueueOverview())
    if once or not console.is_terminal:
        while True:
            console.print(render(overview, workers))
            if once:
                return
            console.print()
            time.sleep(interval)
            overview = fetch_or_keep(context, overview)
    with (
        Interrupt() as interrupt,
        Live(render(overview, workers), console=console, screen=True, auto_refresh=False) as live,
    ):
        while interrupt.sleep(interval):
            with interrupt.abandonable():
                overview = fetch_or_keep(context, overview)
            live.update(render(overview, workers), refresh=True)


class Interrupt:
    """Ctrl-C, the normal way to exit: it ends the view at the next safe moment, and abandons a request in progress.

    A KeyboardInterrupt alone may arrive while the screen is being switched, or be lost inside a callback.
    """

    def __init__(self) -> None:
        self._wanted = False
        self._abandonable = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, *_: object) -> None:
        again, self._wanted = self._wanted, True
        if self._abandonable or again:
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> bool:
        """Sleep; returns False as soon as Ctrl-C was pressed."""
        end = time.monotonic() + seconds
        while not self._wanted and (rest := end - time.monotonic()) > 0:
            time.sleep(min(rest, POLL_SECONDS))
        return not self._wanted

    @contextlib.contextmanager
    def abandonable(self) -> Iterator[None]:
        """A block that Ctrl-C ends at once."""
        with contextlib.suppress(KeyboardInterrupt):
            self._abandonable = True
            try:
                yield
            finally:
                self._abandonable = False


def fetch(context: Context, before: QueueOverview) -> QueueOverview:
    """Fetch everything; without the workers if the key may not list them."""
    api = context.api
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


def fetch_or_keep(context: Context, before: QueueOverview) -> QueueOverview:
    """Fetch everything; while the server is unreachable, the previous data with the error."""
    try:
        return fetch(context, before)
    except UnavailableError as error:
        return QueueOverview(before.depth, before.workers, before.active, before.waiting, trouble=str(error))


def render(overview: QueueOverview, most_workers: int) -> RenderableType:
    """The view as text."""
    parts: list[RenderableType] = [_headline(overview), Text(""), table(_queues(overview.depth), _QUEUES, wide=False)]
    if overview.workers and most_workers:
        fullest = sorted(overview.workers, key=lambda item: (-_fullness(item), item["name"]))[:most_workers]
        parts += [Text(""), table(fullest, _WORKERS, wide=False)]
        if len(overview.workers) > most_workers:
            parts.append(Text(f"and {len(overview.workers) - most_workers} more workers", style="dim"))
    workloads = [*overview.active, *overview.waiting][:SHOWN_WORKLOADS]
    if workloads:
        parts += [Text(""), table(workloads, _WORKLOADS, wide=False)]
    return Group(*parts)


def _headline(overview: QueueOverview) -> Text:
    depth, workers = overview.depth, overview.workers
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
    if overview.trouble:
        line.append(f"\n{clean(overview.trouble)}; showing old data", style="red")
    return line


def _queues(depth: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [row for row in tables.depth_rows(depth) if row["of"] in ("tier", "customer", "pool")]
    most = max((row["pending"] for row in rows), default=0)
    kept: list[dict[str, Any]] = []
    for kind in ("tier", "customer", "pool"):
        kept += [{**row, "most": most} for row in rows if row["of"] == kind][:5]
    return kept


def bar(part: float | None) -> str:
    """A bar of text; empty for None."""
    if part is None:
        return ""
    filled = round(min(max(part, 0.0), 1.0) * BAR_WIDTH)
    return "#" * filled + "." * (BAR_WIDTH - filled)


def _fullness(item: Mapping[str, Any]) -> float:
    parts = [tables.fraction(item, name) for name in ("cpu", "memory", tables.gpu_resource(item)) if name]
    return max((part for part in parts if part is not None), default=0.0)


_QUEUES = (*tables.DEPTHS, Column("", lambda item: bar(item["pending"] / item["most"] if item["most"] else None)))
_WORKERS = (*tables.WORKERS[:4], Column("Used", lambda item: bar(_fullness(item))), *tables.WORKERS[4:])
_WORKLOADS = tuple(column for column in tables.WORKLOADS if column.title not in ("Id", "Score"))
