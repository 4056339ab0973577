"""The expedited lane: bounds the wait of what the queue's order alone would let starve. docs/queue.md tells the rules.

`place.schedule` runs it before the queue, on the same fork. A turn is placing the first member (in lane order) that
fits, or reserving workers for the first that doesn't; each turn is charged to the accounts of the pools it uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from niyanta.engine.expedited.lane_state import LaneAccount, LaneMember, LaneSettings, LaneState, Reservation
from niyanta.engine.placement.capacity import when_empty
from niyanta.engine.placement.feasibility import names
from niyanta.engine.placement.placer import Placer
from niyanta.engine.placement.requirement_class import RequirementClass
from niyanta.engine.snapshot.bitset import Bits, IntArray, iterate, minus, to_rows
from niyanta.engine.snapshot.snapshot import DEVICES_ROW, SLOTS_ROW, WORKER
from niyanta.engine.types import PendingWorkload

MEMBERS_PER_CUSTOMER = 1024
"""Most members of one customer; its others follow as these leave, in the same order as if all had entered."""

TRIES = 256
"""Most members that are tried in one cycle: as far as the lane looks for one that fits."""


@dataclass(frozen=True, slots=True)
class Lane:
    """`state` is `Plan.lane` of the cycle before. `waited`: pending workloads that are members (in any order; those
    missing leave the lane) and others that may enter, oldest first."""

    settings: LaneSettings = field(default_factory=LaneSettings)
    state: LaneState = field(default_factory=LaneState)
    waited: Sequence[PendingWorkload] = ()


class Expedite:
    """One cycle's part of the lane: `run` before the queue, `state` after it."""

    def __init__(self, decider: Placer, lane: Lane, now: int) -> None:
        self.decider = decider
        self.fork = decider.fork
        self.now = now
        self.share = lane.settings.share
        self.after = lane.settings.after
        self.waiting = {workload.id: workload for workload in lane.waited}
        self.round = lane.state.round
        self.accounts = dict(lane.state.accounts)
        self.members = {i: member for i, member in lane.state.members.items() if i in self.waiting}
        self.reserved = {r.pool: r for r in lane.state.reservations if r.id in self.members}
        self._rows: dict[str, Bits] = {}
        """By member with a reservation: its workers."""
        self._possible: dict[int, tuple[RequirementClass, Bits, IntArray]] = {}

    def run(self, pending: Iterable[PendingWorkload]) -> Iterable[PendingWorkload]:
        """Give turns; returns the queue without those that were placed."""
        self._follow()
        if not self.waiting:
            return pending
        self._enter()
        if not self.members:
            return pending
        self._honour()
        if any(account.is_open(self.share) for account in self.accounts.values()):
            self._give_turns()
        placed = {placement.id for placement in self.decider.placements}
        return [workload for workload in pending if workload.id not in placed] if placed else pending

    def state(self) -> LaneState:
        """What the next cycle is to be given: without those that this one placed."""
        gone = self.members.keys() & {placement.id for placement in self.decider.placements}
        members = {i: member for i, member in self.members.items() if i not in gone}
        held = tuple([r for _, r in sorted(self.reserved.items()) if r.id not in gone])
        first = min([member.round for member in members.values()], default=0)
        return LaneState(members, held, self.accounts, max(self.round, first) if members else 0)

    # --- who is in the lane ---

    def _follow(self) -> None:
        """The accounts learn what was freed. A pool seen for the first time has freed nothing yet."""
        for pool, freed in self.fork.snapshot.freed.items():
            account = self.accounts.get(pool)
            self.accounts[pool] = LaneAccount(freed) if account is None else account.follow(freed, self.now, self.share)

    def _enter(self) -> None:
        """Take in who has waited long enough and would fit if Niyanta's own pods were gone."""
        newcomers = [workload for workload in self.waiting.values() if workload.id not in self.members]
        if not newcomers:
            return
        count: dict[str, int] = {}
        last: dict[str, int] = {}
        for member in self.members.values():
            count[member.customer] = count.get(member.customer, 0) + 1
            last[member.customer] = max(last.get(member.customer, 0), member.round)
        for workload in newcomers:
            customer = workload.subject.customer
            if self.now - workload.queued_at < self.after:
                continue
            if count.get(customer, 0) >= MEMBERS_PER_CUSTOMER or not self._is_possible(workload):
                continue
            count[customer] = count.get(customer, 0) + 1
            last[customer] = max(self.round, last[customer] + 1) if customer in last else self.round
            self.members[workload.id] = LaneMember(workload.id, customer, workload.queued_at, last[customer], self.now)

    def _is_possible(self, workload: PendingWorkload) -> bool:
        _, rows, pods = self._when_empty(workload)
        if not rows or (workload.replicas == 1 and not workload.excluded):
            return bool(rows)
        width = self.fork.snapshot.capacity
        usable = to_rows(minus(rows, names(self.fork.index, workload.excluded)), width)
        return int(np.minimum(pods[usable], workload.replicas).sum()) >= workload.replicas

    def _when_empty(self, workload: PendingWorkload) -> tuple[RequirementClass, Bits, IntArray]:
        """Workers that could take a pod if no pod of Niyanta's ran there, and how many; shape (capacity,)."""
        known = self._possible.get(id(workload.requirements))
        if known is not None:
            return known
        found = self._possible[id(workload.requirements)] = when_empty(self.fork, workload.requirements)
        return found

    # --- turns ---

    def _honour(self) -> None:
        """Place whom room is reserved for as soon as there is room; else keep it free of others, or move it."""
        for reservation in self.reserved.values():
            self._rows[reservation.id] = names(self.fork.index, reservation.workers)
        for pool, reservation in sorted(self.reserved.items()):
            workload = self.waiting[reservation.id]
            own = self._rows.pop(reservation.id)
            if self.decider.is_at_limit(workload):
                del self.reserved[pool]
            elif not self.decider.attempt(workload, self._taken()):
                rows = self._kept(workload, reservation, own)
                if not rows:
                    rows = self._choose(workload, self.fork.index.pools.get(pool, 0))
                if rows:
                    self._hold(workload, pool, rows, reservation.since)
                else:
                    del self.reserved[pool]
            else:
                del self.reserved[pool], self.members[workload.id]

    def _kept(self, workload: PendingWorkload, reservation: Reservation, own: Bits) -> list[int]:
        """The rows of a reservation; none if they became of no use, or are free already and still don't do."""
        asked, possible, pods = self._when_empty(workload)
        if minus(own, minus(possible, names(self.fork.index, workload.excluded))) or not own:
            return []
        rows = [self.fork.index.rows.get(name, -1) for name in reservation.workers]
        if len(rows) != workload.replicas or any(row < 0 or rows.count(row) > pods[row] for row in rows):
            return []
        free = all(self._missing(asked, row, rows.count(row)) == 0 for row in set(rows))
        return [] if free else rows

    def _give_turns(self) -> None:
        """Go through the members in order while some pool has a share left."""
        index = self.fork.index
        tries = 0
        failed: set[tuple[int, int]] = set()
        held = {reservation.id for reservation in self.reserved.values()}
        for member in sorted(self.members.values(), key=LaneMember.place):
            pools = [pool for pool, account in self.accounts.items() if account.is_open(self.share)]
            if not pools or tries == TRIES:
                break
            workload = self.waiting[member.id]
            if member.id in held or self.decider.is_at_limit(workload):
                continue
            asked, possible, _ = self._when_empty(workload)
            within = possible & _union(index.pools, pools)
            free = sorted(set(pools) - self.reserved.keys())
            key = (id(workload.requirements), workload.replicas)
            if not within or (key in failed and not within & _union(index.pools, free)):
                continue
            tries += 1
            rows = [] if key in failed else self.decider.attempt(workload, minus(index.alive, within))
            if rows:
                self._charge(asked, rows)
                del self.members[member.id]
                continue
            if not (asked.has_peers or workload.excluded):
                failed.add(key)
            self._reserve(workload, free)

    def _reserve(self, workload: PendingWorkload, pools: Sequence[str]) -> None:
        """Reserve room in the pool where the least is missing; ties by the pool's name."""
        best: tuple[int, str, list[int]] | None = None
        asked = self._when_empty(workload)[0]
        for pool in pools:
            rows = self._choose(workload, self.fork.index.pools.get(pool, 0))
            missing = sum(self._missing(asked, row, rows.count(row)) for row in set(rows))
            if rows and (best is None or missing < best[0]):
                best = missing, pool, rows
        if best is not None:
            self._hold(workload, best[1], best[2], self.now)
            self._charge(asked, best[2])

    def _choose(self, workload: PendingWorkload, within: Bits) -> list[int]:
        """One row per replica: where nothing but running pods' amounts is in the way if possible, the least is missing
        until the worker takes as many as it can, and by name."""
        fork = self.fork
        asked, possible, pods = self._when_empty(workload)
        usable = minus(possible & within, names(fork.index, workload.excluded) | self._taken())
        view = fork.view(workload.subject)
        anti, near = fork.terms_of(asked, view) if asked.has_peers else ((), ())
        in_the_way = fork.anti_rows(anti, fork.matched(view)) | fork.port_rows(asked.requirements)
        if near:
            near_by, starting = fork.near_rows(near, view)
            usable &= near_by & fork.starting_rows(starting)
        alone = bool(asked.requirements.anti or asked.requirements.host_ports)
        most = {row: 1 if alone else min(int(pods[row]), workload.replicas) for row in iterate(usable)}
        ordered = sorted(
            usable_row
            for usable_row in (
                (in_the_way >> row & 1, self._missing(asked, row, count), fork.index.infos[row].name, row)
                for row, count in most.items()
            )
        )
        chosen: list[int] = []
        for _, _, _, row in ordered:
            chosen += [row] * min(most[row], workload.replicas - len(chosen))
            if len(chosen) == workload.replicas:
                return chosen
        return []

    def _missing(self, asked: RequirementClass, row: int, pods: int) -> int:
        """What has to come free for so many pods, as the largest share of the worker's own capacity; 0: they fit."""
        have = self.fork.snapshot.allocatable[:, row].tolist()
        missing = 0
        for column, amount in (*asked.needs, (SLOTS_ROW, 1)):
            lacking = pods * amount - self.fork.left[column][row]
            if lacking > 0:
                missing = max(missing, -(-lacking * WORKER // max(have[column], 1)))
        devices = asked.devices_of.get(self.fork.gpu_resource.get(row, ""), 0)
        lacking = pods * devices - self.fork.left[DEVICES_ROW][row]
        if devices and lacking > 0:
            missing = max(missing, -(-lacking * WORKER // max(have[DEVICES_ROW], 1)))
        return missing

    def _hold(self, workload: PendingWorkload, pool: str, rows: list[int], since: int) -> None:
        infos = self.fork.index.infos
        workers = tuple([infos[row].name for row in rows])
        self._rows[workload.id] = names(self.fork.index, workers)
        self.reserved[pool] = Reservation(workload.id, pool, workers, since)
        self.fork.hold(self._when_empty(workload)[0], rows)

    def _taken(self) -> Bits:
        """Workers reserved for others."""
        taken = 0
        for rows in self._rows.values():
            taken |= rows
        return taken

    def _charge(self, asked: RequirementClass, rows: list[int]) -> None:
        """Charge a turn to the pools of its workers."""
        fork = self.fork
        for row in rows:
            pool = fork.index.infos[row].pool
            devices = asked.devices_of.get(fork.gpu_resource.get(row, ""), 0)
            amount = fork.snapshot.share(row, asked.requirements.requests, devices)
            self.accounts[pool] = self.accounts[pool].charge(amount, self.now, self.share)


def _union(table: dict[str, Bits], keys: Iterable[str]) -> Bits:
    found = 0
    for key in keys:
        found |= table.get(key, 0)
    return found
