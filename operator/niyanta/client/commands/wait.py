"""Waits for a state of workloads, with a progress bar and, with --watch, a line for each event."""

from __future__ import annotations

import contextlib
import enum
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

FIRST_PAUSE_SECONDS = 0.3
LONGEST_PAUSE_SECONDS = 3.0
FINISHED = frozenset(phase.value for phase in TERMINAL)


class Awaited(enum.Enum):
    """States to wait for, named as the conditions of a Workload."""

    FINISHED = "finished"
    SUCCEEDED = "succeeded"
    RUNNING = "running"
    SCHEDULED = "scheduled"

    @property
    def phases(self) -> frozenset[str]:
        """Phases in which a workload is in this state, or past it."""
        return _REACHED[self]


_ON_THE_WAY = (Phase.SUCCEEDED.value, Phase.RUNNING.value, Phase.SCHEDULED.value)
_REACHED = {
    Awaited.FINISHED: FINISHED,
    Awaited.SUCCEEDED: frozenset(_ON_THE_WAY[:1]),
    Awaited.RUNNING: frozenset(_ON_THE_WAY[:2]),
    Awaited.SCHEDULED: frozenset(_ON_THE_WAY),
}


def awaited(text: str | Awaited) -> Awaited:
    """Value of --for: `finished`, `condition=Finished` or `condition=Finished=True`; raises ValueError."""
    if isinstance(text, Awaited):
        return text
    word = text.strip().lower().removeprefix("condition=").removesuffix("=true")
    try:
        return Awaited(word)
    except ValueError:
        known = ", ".join(state.value for state in Awaited)
        raise ValueError(f"{text!r} is not one of {known}") from None


def wait(
    context: Context,
    ids: Sequence[str],
    *,
    timeout: float | None,
    watch: bool,
    state: Awaited = Awaited.FINISHED,
) -> list[dict[str, Any]]:
    """Wait for the workloads; returns them when each is in that state or has finished, in the order of `ids`.

    Args:
        timeout: seconds; None waits without a limit.
        watch: print a line for each event.
        state: the state to wait for.

    Raises:
        WaitTimeoutError: some were not in that state within the timeout.
    """
    ends = state.phases | FINISHED
    deadline = None if timeout is None else time.monotonic() + timeout
    latest: dict[str, dict[str, Any]] = {}
    printed: dict[str, PrintedState] = {id_: PrintedState() for id_ in ids}
    pause = FIRST_PAUSE_SECONDS
    with _progress(context, len(ids)) as progress:
        task = progress.add_task("", total=len(ids))
        while True:
            for id_ in ids:
                if phase_of(latest.get(id_)) in ends:
                    continue
                latest[id_] = context.api.get(f"/v1/workloads/{id_}")
                if watch:
                    _print_new_events(context, progress, latest[id_], printed[id_])
            counts = Counter(phase_of(latest[id_]) for id_ in ids)
            done = sum(counts[phase] for phase in ends)
            progress.update(task, completed=done, description=_summary(counts))
            if done == len(ids):
                return [latest[id_] for id_ in ids]
            if deadline is not None and time.monotonic() >= deadline:
                break
            left = pause if deadline is None else min(pause, max(0.0, deadline - time.monotonic()))
            time.sleep(left)
            pause = min(pause * 1.3, LONGEST_PAUSE_SECONDS)
    open_ids = [id_ for id_ in ids if phase_of(latest[id_]) not in ends]
    message = f"not {state.value} after {timeout:g} s: {len(open_ids)} of {len(ids)} ({_summary(counts)})"
    raise WaitTimeoutError(message, *(f"{id_} is {phase_of(latest[id_])}" for id_ in open_ids[:10]))


def exit_code(ended: Sequence[dict[str, Any]], state: Awaited) -> Exit:
    """OK when all are in that state, and succeeded if they finished; else FAILED."""
    good = Awaited.SUCCEEDED.phases if state is Awaited.FINISHED else state.phases
    return Exit.OK if all(phase_of(item) in good for item in ended) else Exit.FAILED


class PrintedState:
    """State of a workload at the last print, and the number of printed events."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] | None = None
        self.events = 0


def _print_new_events(context: Context, progress: Progress, item: dict[str, Any], printed: PrintedState) -> None:
    """Fetch events only when the workload has changed, so that watching many is cheap."""
    state = tuple(item.get(key) for key in ("phase", "attempts", "reason", "failures", "placement"))
    if state == printed.state:
        return
    printed.state = state
    events = list(context.api.pages(f"/v1/workloads/{item['id']}/events"))
    for event in events[printed.events :]:
        progress.console.print(escape(clean(event_line(item, event))))
    printed.events = len(events)


def _summary(counts: Counter[str]) -> str:
    parts = [f"{counts[phase.value]} {phase.value}" for phase in Phase if counts[phase.value]]
    return ", ".join(parts) or "waiting"


@contextlib.contextmanager
def _progress(context: Context, total: int) -> Iterator[Progress]:
    """A progress bar, hidden unless stderr is a terminal."""
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    shown = context.err.is_terminal
    with Progress(*columns, console=context.err, transient=True, disable=not shown) as progress:
        yield progress
