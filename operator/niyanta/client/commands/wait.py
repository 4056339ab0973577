"""Waiting for workloads to finish: a progress bar, or one line for each thing that happened."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from niyanta.client.context import Context
from niyanta.client.errors import Exit, WaitTimeoutError
from niyanta.client.output import clean
from niyanta.client.tables import event_line, phase_of
from niyanta.lifecycle import TERMINAL, Phase

FIRST_PAUSE = 0.3
LONGEST_PAUSE = 3.0
FINISHED = frozenset(phase.value for phase in TERMINAL)


def wait(session: Context, ids: Sequence[str], *, timeout: float | None, watch: bool) -> list[dict[str, Any]]:
    """The workloads as they finished, in the order of `ids`.

    Args:
        timeout: seconds; None waits for ever.
        watch: print a line for everything that happens to them.

    Raises:
        WaitTimeoutError: some hadn't finished in time.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    latest: dict[str, dict[str, Any]] = {}
    seen: dict[str, Seen] = {id_: Seen() for id_ in ids}
    pause = FIRST_PAUSE
    with _progress(session, len(ids)) as progress:
        task = progress.add_task("", total=len(ids))
        while True:
            for id_ in ids:
                if phase_of(latest.get(id_)) in FINISHED:
                    continue
                latest[id_] = session.api.get(f"/v1/workloads/{id_}")
                if watch:
                    _tell(session, progress, latest[id_], seen[id_])
            counts = Counter(phase_of(latest[id_]) for id_ in ids)
            done = sum(counts[phase] for phase in FINISHED)
            progress.update(task, completed=done, description=_summary(counts))
            if done == len(ids):
                return [latest[id_] for id_ in ids]
            if deadline is not None and time.monotonic() >= deadline:
                break
            left = pause if deadline is None else min(pause, max(0.0, deadline - time.monotonic()))
            time.sleep(left)
            pause = min(pause * 1.3, LONGEST_PAUSE)
    open_ids = [id_ for id_ in ids if phase_of(latest[id_]) not in FINISHED]
    message = f"not finished after {timeout:g} s: {len(open_ids)} of {len(ids)} ({_summary(counts)})"
    raise WaitTimeoutError(message, *(f"{id_} is {phase_of(latest[id_])}" for id_ in open_ids[:10]))


def verdict(finished: Sequence[dict[str, Any]]) -> Exit:
    """OK when all succeeded."""
    return Exit.OK if all(phase_of(item) == Phase.SUCCEEDED.value for item in finished) else Exit.FAILED


class Seen:
    """What was told of one workload."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] | None = None
        self.events = 0


def _tell(session: Context, progress: Progress, item: dict[str, Any], seen: Seen) -> None:
    """Events are asked for only when the workload has changed, so that watching many stays cheap."""
    state = tuple(item.get(key) for key in ("phase", "attempts", "reason", "failures", "workers"))
    if state == seen.state:
        return
    seen.state = state
    events = list(session.api.pages(f"/v1/workloads/{item['id']}/events"))
    for event in events[seen.events :]:
        progress.console.print(escape(clean(event_line(item, event))))
    seen.events = len(events)


def _summary(counts: Counter[str]) -> str:
    parts = [f"{counts[phase.value]} {phase.value}" for phase in Phase if counts[phase.value]]
    return ", ".join(parts) or "waiting"


@contextlib.contextmanager
def _progress(session: Context, total: int) -> Iterator[Progress]:
    """A bar on terminals alone; without one, nothing but what is watched is printed."""
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    shown = session.err.is_terminal
    with Progress(*columns, console=session.err, transient=True, disable=not shown) as progress:
        yield progress
