"""Records calls and returns between the files of one package, and counts the moves between the files.

A move is a transfer of control from one file to another: a call, or the return from one. A call counts once for each
chain of functions that leads to it, so that loops and repeated checks count once. Reads of properties are no calls. A
coroutine that waits and goes on makes no move.
"""

from __future__ import annotations

import opcode
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

YIELD = opcode.opmap["YIELD_VALUE"]

Chain = tuple[tuple[str, str], ...]
"""(file, function) of the package's frames on the stack, innermost first."""


@dataclass(frozen=True, slots=True)
class Step:
    """A call of the innermost function of `chain`, or the return from it."""

    is_call: bool
    chain: Chain
    counted: bool = True
    """For a return: its call was recorded."""


@dataclass(frozen=True, slots=True)
class Walk:
    """The files that a flow runs through, one for each move, with the function that runs there."""

    places: tuple[tuple[str, str], ...]

    @property
    def moves(self) -> int:
        """Moves between files."""
        return len(self.places) - 1

    @property
    def returns(self) -> int:
        """Moves to a file that was left before."""
        return len(self.places) - len(self.files)

    @property
    def files(self) -> frozenset[str]:
        """The files that were visited."""
        return frozenset(file for file, _ in self.places)


class Tracer:
    """Records the steps of all threads that are started after `install`, while `recording` is True."""

    def __init__(self, package: Path) -> None:
        self.recording = False
        self.steps: list[Step] = []
        self._root = str(package) + "/"
        self._files: dict[CodeType, str | None] = {}
        self._started: dict[int, FrameType] = {}
        self._properties: frozenset[CodeType] = frozenset()

    def install(self) -> None:
        """Trace this thread, and those that it starts from now on."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def uninstall(self) -> None:
        """Trace no new threads, and this one no more."""
        self.recording = False
        threading.setprofile(None)  # type: ignore[arg-type]
        sys.setprofile(None)

    def begin(self) -> None:
        """Record anew."""
        self._properties = _property_getters(self._root)
        self._started = {}
        self.steps = []
        self.recording = True

    def end(self) -> list[Step]:
        """Stop recording; returns the steps in the order of time."""
        self.recording = False
        return self.steps

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        if not self.recording or event not in ("call", "return"):
            return
        code = frame.f_code
        if self._file(code) is None or code in self._properties:
            return
        if event == "call":
            if id(frame) not in self._started:  # else a coroutine goes on
                self._started[id(frame)] = frame  # kept, so that no other frame gets its id
                self.steps.append(Step(True, self._chain(frame)))
        elif code.co_code[frame.f_lasti] != YIELD:
            self.steps.append(Step(False, self._chain(frame), id(frame) in self._started))

    def _file(self, code: CodeType) -> str | None:
        try:
            return self._files[code]
        except KeyError:
            name = code.co_filename
            found = name.removeprefix(self._root) if name.startswith(self._root) else None
            self._files[code] = found
            return found

    def _chain(self, frame: FrameType) -> Chain:
        chain = []
        at: FrameType | None = frame
        while at is not None:
            file = self._file(at.f_code)
            if file is not None:
                chain.append((file, at.f_code.co_qualname))
            at = at.f_back
        return tuple(chain)


def _property_getters(root: str) -> frozenset[CodeType]:
    found = set()
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != "niyanta" or not str(getattr(module, "__file__", "")).startswith(root):
            continue
        for kind in list(vars(module).values()):
            members = list(vars(kind).values()) if isinstance(kind, type) else []
            found |= {m.fget.__code__ for m in members if isinstance(m, property) and hasattr(m.fget, "__code__")}
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a flow: the steps whose chain has one of `functions`, without those that have one of `without`.

    It ends with the first call of `until` and what that calls; "": it doesn't end by itself. Functions are qualified
    names, `Class.method`.
    """

    functions: Sequence[str]
    until: str = ""
    without: Sequence[str] = field(default_factory=tuple)

    def select(self, steps: Iterable[Step]) -> list[Step]:
        """The stage's steps, in order. Raises LookupError when one of its functions was never called."""
        selected = []
        ended: Chain | None = None
        for step in steps:
            names = {function for _, function in step.chain}
            if names.isdisjoint(self.functions) or not names.isdisjoint(self.without):
                continue
            if ended is not None and (not step.is_call and step.chain == ended):
                break
            selected.append(step)
            if self.until and step.is_call and step.chain[0][1] == self.until and ended is None:
                ended = step.chain
        called = {function for step in selected for _, function in step.chain}
        if missing := [name for name in (*self.functions, self.until) if name and name not in called]:
            raise LookupError(f"never called: {', '.join(missing)}")
        return selected


def trunk(steps: Sequence[Step]) -> list[Step]:
    """The steps without leaf calls: calls of functions that call no other file. The last call, which hands the flow on
    or ends it, stays."""
    calls = [step.chain for step in steps if step.is_call]
    kept = {chain[depth:] for chain in calls for depth in range(1, len(chain)) if chain[depth][0] != chain[0][0]} | set(
        calls[-1:]
    )
    return [step for step in steps if step.chain in kept]


def walk(steps: Iterable[Step]) -> Walk:
    """The walk along the steps. Each chain of calls is followed once."""
    places: list[tuple[str, str]] = []
    followed: set[Chain] = set()
    open_calls: set[Chain] = set()

    def move(place: tuple[str, str]) -> None:
        if not places or places[-1][0] != place[0]:
            places.append(place)

    for step in steps:
        callers = step.chain[1:]
        if step.is_call and step.chain not in followed:
            followed.add(step.chain)
            open_calls.add(step.chain)
            for place in (*callers[:1], step.chain[0]):
                move(place)
        elif not step.is_call and callers and (step.chain in open_calls or not step.counted):
            open_calls.discard(step.chain)
            move(callers[0])
    return Walk(tuple(places))
