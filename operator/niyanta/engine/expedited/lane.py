"""The expedited lane bounds the wait of workloads that the queue's order alone would starve (rules: docs/queue.md).

`schedule` runs it before the queue, on the same overlay. A turn places the first member (in lane order) that fits, or
reserves workers for the first that does not. Each turn is charged to the accounts of the pools it uses. The work of one
cycle is bounded; the next cycle goes on behind the member where it ended. A member whose handling raises leaves the
lane, as a fault of the plan.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from niyanta.engine.expedited import lane_state
from niyanta.engine.expedited.lane_state import LaneAccount, LaneMember, LaneSettings, LaneState, Reservation
from niyanta.engine.placement.capacity import capacity_when_empty
from niyanta.engine.placement.domains import required_topologies, split, total
from niyanta.engine.placement.feasibility import named_workers
from niyanta.engine.placement.placer import Placer
from niyanta.engine.placement.requirement_class import RequirementClass
from niyanta.engine.snapshot.affinity_terms import AffinityTerm
from niyanta.engine.snapshot.bitset import Bits, IntArray, iterate, minus
from niyanta.engine.snapshot.snapshot import DEVICES_RESOURCE, SLOTS_RESOURCE, WHOLE_WORKER
from niyanta.engine.types import PendingWorkload

MAX_MEMBERS_PER_CUSTOMER = 1024
"""Most members of one customer. Its other workloads enter when these leave, in the same order as without the limit."""

MAX_TRIES_PER_CYCLE = 256
"""Most members that one cycle tries to place."""

MAX_STEPS_PER_CYCLE = 1 << 16
"""Most steps of one cycle, about 0.3 s: a step compares one worker for a reservation, a replica counts as four."""

_REPLICA_STEPS = 4


@dataclass(frozen=True, slots=True)
class Lane:
    """The lane's input of one cycle.

    `state` is `Plan.lane` of the cycle before. `waited` are pending workloads that are members (in any order; a member
    that is missing leaves the lane) and candidates for entry, oldest first.
    """

    settings: LaneSettings = field(default_factory=LaneSettings)
    state: LaneState = field(default_factory=LaneState)
    waited: Sequence[PendingWorkload] = ()


class ExpeditedLane:
    """The expedited lane in one cycle: `run` is called before the queue, `state` after it."""

    def __init__(self, placer: Placer, lane: Lane, now: int, stop: Callable[[], bool] | None = None) -> None:
        self.placer = placer
        self._stop = stop
        self._steps = 0
        self._ended_at = lane.state.ended_at
        self.overlay = placer.overlay
        self.now = now
        self.share = lane.settings.share
        self.after_us = lane.settings.after_us
        self.waiting = {workload.id: workload for workload in lane.waited}
        self.round = lane.state.round
        self.accounts = dict(lane.state.accounts)
        self.members = {i: member for i, member in lane.state.members.items() if self._still_waits(member)}
        self.reserved = {r.pool: r for r in lane.state.reservations if r.id in self.members}
        self._reserved_workers: dict[str, Bits] = {}
        """Member with a reservation -> its workers."""
        self._impossible = lane.state.still_impossible(self.overlay.index.version, now)
        self._possible: dict[tuple[int, str], tuple[RequirementClass, Bits, IntArray]] = {}
        """By requirements object and, when pools list customers, customer."""

    def run(self, pending: Iterable[PendingWorkload]) -> Iterable[PendingWorkload]:
        """Give turns; returns `pending` without the workloads that were placed or failed."""
        self._follow()
        if not self.waiting:
            return pending
        self._enter()
        if not self.members:
            return self._without_decided(pending)
        self._serve_reservations()
        if any(account.is_open(self.share) for account in self.accounts.values()):
            self._give_turns()
        return self._without_decided(pending)

    def _without_decided(self, pending: Iterable[PendingWorkload]) -> Iterable[PendingWorkload]:
        decided = {placement.id for placement in self.placer.placements}
        decided.update(fault.id for fault in self.placer.faults)
        return [workload for workload in pending if workload.id not in decided] if decided else pending

    def state(self) -> LaneState:
        """Lane state to pass to the next cycle, without the members that this cycle placed."""
        gone = {placement.id for placement in self.placer.placements}
        members = {i: member for i, member in self.members.items() if i not in gone}
        held = tuple([r for _, r in sorted(self.reserved.items()) if r.id not in gone])
        first = min([member.round for member in members.values()], default=0)
        round_, facts = max(self.round, first) if members else 0, self.overlay.index.version
        return LaneState(members, held, self.accounts, round_, self._impossible, facts, self._ended_at)

    def _fail(self, workload: PendingWorkload, error: Exception) -> None:
        """Remove a workload whose handling raised from the lane, and record the fault."""
        self.placer.fail(workload, error)
        self.members.pop(workload.id, None)
        self._reserved_workers.pop(workload.id, None)
        self.reserved = {pool: r for pool, r in self.reserved.items() if r.id != workload.id}

    def _is_over(self) -> bool:
        """True when the cycle's time is over."""
        return self._stop is not None and self._stop()

    # --- members ---

    def _still_waits(self, member: LaneMember) -> bool:
        """True when the member is the wait that entered: a workload that was queued anew has to wait again."""
        workload = self.waiting.get(member.id)
        return workload is not None and workload.queued_at == member.queued_at

    def _follow(self) -> None:
        """Add newly freed capacity to the accounts. A pool seen for the first time has freed nothing yet."""
        for pool, freed in self.overlay.snapshot.freed.items():
            account = self.accounts.get(pool)
            self.accounts[pool] = LaneAccount(freed) if account is None else account.follow(freed, self.now, self.share)

    def _enter(self) -> None:
        """Admit workloads that have waited long enough and would fit on workers without Niyanta's pods."""
        newcomers = [workload for workload in self.waiting.values() if workload.id not in self.members]
        count: dict[str, int] = {}
        last: dict[str, int] = {}
        for member in self.members.values():
            count[member.customer] = count.get(member.customer, 0) + 1
            last[member.customer] = max(last.get(member.customer, 0), member.round)
        for workload in newcomers:
            customer = workload.subject.customer
            is_full = count.get(customer, 0) >= MAX_MEMBERS_PER_CUSTOMER
            if is_full or self.now - workload.queued_at < self.after_us or workload.queue_class in self._impossible:
                continue
            if self._is_over():
                break
            try:
                possible = self._is_possible(workload)
            except Exception as error:
                self._fail(workload, error)
                continue
            if not possible:
                if workload.queue_class and not workload.excluded:
                    self._impossible[workload.queue_class] = self.now + lane_state.IMPOSSIBLE_US
                continue
            count[customer] = count.get(customer, 0) + 1
            last[customer] = max(self.round, last[customer] + 1) if customer in last else self.round
            self.members[workload.id] = LaneMember(workload.id, customer, workload.queued_at, last[customer], self.now)

    def _is_possible(self, workload: PendingWorkload) -> bool:
        requirement_class, workers, pods = self._when_empty(workload)
        if not workers or (workload.replicas == 1 and not workload.excluded):
            return bool(workers)
        usable = minus(workers, named_workers(self.overlay.index, workload.excluded))
        starting: tuple[AffinityTerm, ...] = ()
        if requirement_class.requirements.near:
            view = self.overlay.view(workload.subject)
            _, starting = self.overlay.workers_near(self.overlay.terms_of(requirement_class, view)[1], view)
        topologies = required_topologies(requirement_class.requirements, starting)
        each = np.minimum(pods, workload.replicas)
        return any(total(each, part) >= workload.replicas for _, part in split(self.overlay.index, topologies, usable))

    def _when_empty(self, workload: PendingWorkload) -> tuple[RequirementClass, Bits, IntArray]:
        """Its class, the workers that could take its pod without Niyanta's pods, and the pods of each (capacity,)."""
        kind = self._kind(workload)
        if kind not in self._possible:
            requirement_class = self.overlay.class_of(workload.requirements, workload.subject.customer)
            workers, pods = capacity_when_empty(self.overlay, requirement_class)
            self._possible[kind] = requirement_class, workers, pods if workers else pods[:0].copy()
        return self._possible[kind]

    def _kind(self, workload: PendingWorkload) -> tuple[int, str]:
        customer = workload.subject.customer if self.overlay.index.is_restricted else ""
        return id(workload.requirements), customer

    # --- turns ---

    def _serve_reservations(self) -> None:
        """Place members whose reserved room is free; otherwise keep or move their reservations."""
        for reservation in self.reserved.values():
            self._reserved_workers[reservation.id] = named_workers(self.overlay.index, reservation.workers)
        for pool, reservation in sorted(self.reserved.items()):
            workload = self.waiting[reservation.id]
            try:
                self._serve(pool, reservation, workload)
            except Exception as error:
                self._fail(workload, error)

    def _serve(self, pool: str, reservation: Reservation, workload: PendingWorkload) -> None:
        own = self._reserved_workers.pop(reservation.id)
        if self._is_over():
            return
        if self.placer.is_at_limit(workload):
            del self.reserved[pool]
        elif not self._attempt(workload, self._reserved_for_others()):
            workers = self._kept(workload, reservation, own)
            if not workers:
                workers = self._choose(workload, self.overlay.index.pools.get(pool, 0))
            if workers:
                self._keep_reserved(workload, pool, workers, reservation.since)
            else:
                del self.reserved[pool]
        else:
            del self.reserved[pool], self.members[workload.id]

    def _attempt(self, workload: PendingWorkload, blocked: Bits) -> list[int]:
        self._steps += _REPLICA_STEPS * workload.replicas
        return self.placer.attempt(workload, blocked)

    def _kept(self, workload: PendingWorkload, reservation: Reservation, own: Bits) -> list[int]:
        """The workers of a reservation, one per replica.

        Empty if they became unusable, or if the workload does not fit on them although their capacity is free.
        """
        requirement_class, possible, pods = self._when_empty(workload)
        if minus(own, minus(possible, named_workers(self.overlay.index, workload.excluded))) or not own:
            return []
        workers = [self.overlay.index.by_name.get(name, -1) for name in reservation.workers]
        if len(workers) != workload.replicas or any(
            worker < 0 or workers.count(worker) > pods[worker] for worker in workers
        ):
            return []
        free = all(self._missing(requirement_class, worker, workers.count(worker)) == 0 for worker in set(workers))
        return [] if free else workers

    def _give_turns(self) -> None:
        """Try the members in lane order while a pool has a share left."""
        tries = 0
        failed: set[tuple[tuple[int, str], int]] = set()
        held = {reservation.id for reservation in self.reserved.values()}
        members = sorted(self.members.values(), key=LaneMember.order)
        first = bisect_right(members, self._ended_at, key=LaneMember.order) if self._ended_at else 0
        last, self._ended_at = self._ended_at, None
        for member in members[first:] + members[:first]:
            pools = [pool for pool, account in self.accounts.items() if account.is_open(self.share)]
            if not pools:
                break
            workload = self.waiting[member.id]
            if member.id in held or self.placer.is_at_limit(workload):
                continue
            if tries == MAX_TRIES_PER_CYCLE or self._steps >= MAX_STEPS_PER_CYCLE or self._is_over():
                self._ended_at = last
                break
            try:
                tries += self._give_turn(member, workload, pools, failed)
            except Exception as error:
                self._fail(workload, error)
            last = member.order()

    def _give_turn(
        self,
        member: LaneMember,
        workload: PendingWorkload,
        pools: Sequence[str],
        failed: set[tuple[tuple[int, str], int]],
    ) -> bool:
        """Place one member in the pools, or reserve workers for it; True if it was tried.

        `failed`: kinds of workloads and replicas that found no room in this cycle.
        """
        index = self.overlay.index
        requirement_class, possible, _ = self._when_empty(workload)
        within = possible & _union(index.pools, pools)
        free = sorted(set(pools) - self.reserved.keys())
        key = (self._kind(workload), workload.replicas)
        if not within or (key in failed and not within & _union(index.pools, free)):
            return False
        workers = [] if key in failed else self._attempt(workload, minus(index.alive, within))
        if workers:
            self._charge(requirement_class, workers)
            del self.members[member.id]
            return True
        if not (requirement_class.has_peers or workload.excluded):
            failed.add(key)
        self._reserve(workload, free)
        return True

    def _reserve(self, workload: PendingWorkload, pools: Sequence[str]) -> None:
        """Reserve workers in the pool that lacks the least capacity; ties are broken by the pool's name."""
        best: tuple[int, str, list[int]] | None = None
        requirement_class = self._when_empty(workload)[0]
        for pool in pools:
            workers = self._choose(workload, self.overlay.index.pools.get(pool, 0))
            missing = sum(self._missing(requirement_class, worker, workers.count(worker)) for worker in set(workers))
            if workers and (best is None or missing < best[0]):
                best = missing, pool, workers
        if best is not None:
            self._keep_reserved(workload, best[1], best[2], self.now)
            self._charge(requirement_class, best[2])

    def _choose(self, workload: PendingWorkload, within: Bits) -> list[int]:
        """One worker per replica, empty if there are too few; in one domain, if near terms or a topology
        tie the replicas together.

        Workers without conflicting peers or ports come first, then workers that lack the least capacity for as many
        replicas as they can take, then by name.
        """
        overlay = self.overlay
        requirement_class, possible, _ = self._when_empty(workload)
        usable = minus(possible & within, named_workers(overlay.index, workload.excluded) | self._reserved_for_others())
        view = overlay.view(workload.subject)
        anti, near = overlay.terms_of(requirement_class, view) if requirement_class.has_peers else ((), ())
        in_the_way = overlay.workers_in_conflict(anti, overlay.matched(view)) | overlay.workers_with_ports_taken(
            requirement_class.requirements
        )
        starting: tuple[AffinityTerm, ...] = ()
        if near:
            near_by, starting = overlay.workers_near(near, view)
            usable &= near_by & overlay.workers_for_starting(starting)
        topologies = required_topologies(requirement_class.requirements, starting)
        topology = requirement_class.requirements.topology
        if topology is not None and not topology.required:
            workers = self._choose_domain(workload, usable, (*topologies, topology.key), in_the_way)
            if workers:
                return workers
        return self._choose_domain(workload, usable, topologies, in_the_way)

    def _choose_domain(
        self, workload: PendingWorkload, usable: Bits, topologies: Sequence[str], in_the_way: Bits
    ) -> list[int]:
        """One usable worker per replica, all in one domain of the topologies; empty if no domain has enough."""
        requirement_class, _, pods = self._when_empty(workload)
        alone = bool(requirement_class.requirements.anti or requirement_class.requirements.host_ports)
        each = np.minimum(pods, 1 if alone else workload.replicas)
        found: list[tuple[int, int, int, list[int]]] = []
        for _, part in split(self.overlay.index, topologies, usable):
            if total(each, part) >= workload.replicas:
                self._steps += part.bit_count() + _REPLICA_STEPS * workload.replicas
                workers = self._fill(requirement_class, part, each, in_the_way, workload.replicas)
                cost = sum(self._missing(requirement_class, worker, workers.count(worker)) for worker in set(workers))
                found.append((sum(in_the_way >> worker & 1 for worker in workers), cost, len(found), workers))
        return min(found)[3] if found else []

    def _fill(
        self, requirement_class: RequirementClass, usable: Bits, each: IntArray, in_the_way: Bits, replicas: int
    ) -> list[int]:
        """The best of the usable workers, one per replica; `each`: most replicas of a worker, shape (capacity,)."""
        infos = self.overlay.index.infos
        ordered = []
        for worker in iterate(usable):
            missing = self._missing(requirement_class, worker, int(each[worker]))
            ordered.append((in_the_way >> worker & 1, missing, infos[worker].name, worker))
        ordered.sort()
        chosen: list[int] = []
        for _, _, _, worker in ordered:
            chosen += [worker] * min(int(each[worker]), replicas - len(chosen))
            if len(chosen) == replicas:
                break
        return chosen

    def _missing(self, requirement_class: RequirementClass, worker: int, pods: int) -> int:
        """Capacity that must be freed for `pods` pods, as the dominant share of the worker; 0 if they fit."""
        have = self.overlay.snapshot.allocatable[:, worker].tolist()
        missing = 0
        for resource, amount in (*requirement_class.needs, (SLOTS_RESOURCE, 1)):
            free = self.overlay.free_list[resource][worker] if resource >= 0 else 0
            lacking = pods * amount - free
            if lacking > 0:
                missing = max(missing, -(-lacking * WHOLE_WORKER // max(have[resource] if resource >= 0 else 0, 1)))
        devices = requirement_class.devices_of.get(self.overlay.gpu_resource.get(worker, ""), 0)
        lacking = pods * devices - self.overlay.free_list[DEVICES_RESOURCE][worker]
        if devices and lacking > 0:
            missing = max(missing, -(-lacking * WHOLE_WORKER // max(have[DEVICES_RESOURCE], 1)))
        return missing

    def _keep_reserved(self, workload: PendingWorkload, pool: str, workers: list[int], since: int) -> None:
        infos = self.overlay.index.infos
        names_of = tuple([infos[worker].name for worker in workers])
        self._reserved_workers[workload.id] = named_workers(self.overlay.index, names_of)
        self.reserved[pool] = Reservation(workload.id, pool, names_of, since)
        self.overlay.reserve(self._when_empty(workload)[0], workers)

    def _reserved_for_others(self) -> Bits:
        """Workers of reservations that `_serve_reservations` has not reached yet."""
        taken = 0
        for workers in self._reserved_workers.values():
            taken |= workers
        return taken

    def _charge(self, requirement_class: RequirementClass, workers: list[int]) -> None:
        """Charge a turn to the pools of its workers."""
        overlay = self.overlay
        for worker in workers:
            pool = overlay.index.infos[worker].pool
            devices = requirement_class.devices_of.get(overlay.gpu_resource.get(worker, ""), 0)
            amount = overlay.snapshot.share(worker, requirement_class.requirements.requests, devices)
            self.accounts[pool] = self.accounts[pool].charge(amount, self.now, self.share)


def _union(table: dict[str, Bits], keys: Iterable[str]) -> Bits:
    found = 0
    for key in keys:
        found |= table.get(key, 0)
    return found
