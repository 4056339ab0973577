"""Measurement of autoscaling: autoscalers of hpa/ with shorter windows, pools of simulated workers, and a timeline.

Tests of scaling, the demo and the bench use it. All samples are read from the API server and from Postgres, not from
the operator.
"""

from __future__ import annotations

import copy
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import yaml

from testing.cluster.api_client import JSON, ApiError
from testing.cluster.cluster import Cluster
from testing.cluster.stages import RUN_FOR
from testing.environment import Environment
from testing.processes.run_directory import REPO
from testing.scenarios.placement import POOLS
from testing.waiting import until

HPA_FOLDER = REPO / "hpa"
GPU = "nvidia.com/gpu"
POOL_LABEL = "niyanta.io/pool"
LATE_TO_START, LATE_TO_END = 15.0, 4.0
"""Seconds after which a late simulated pod counts as forgotten."""
NUDGES_AT_ONCE = 10
NUDGE_EVERY = 5.0

_COUNTS = """
SELECT count(DISTINCT id) FILTER (WHERE status = 'PENDING'),
       count(DISTINCT id) FILTER (WHERE status IN ('SCHEDULED', 'RUNNING')),
       array_agg(DISTINCT worker) FILTER (WHERE status IN ('SCHEDULED', 'RUNNING') AND worker IS NOT NULL)
  FROM workload_state JOIN workloads USING (id) LEFT JOIN LATERAL unnest(workers) AS worker ON true
 WHERE namespace = %s
"""


def autoscaler(name: str) -> JSON:
    """The HorizontalPodAutoscaler of hpa/`name`, exactly as shipped."""
    manifest: JSON = yaml.safe_load((HPA_FOLDER / name).read_text())
    return manifest


def quick(manifest: JSON, *, window: int = 5, period: int = 5, max_replicas: int | None = None) -> JSON:
    """A copy with windows and periods of at most these seconds, which scales down in one step: growing and shrinking
    take less than a minute."""
    made = copy.deepcopy(manifest)
    for rules in made["spec"]["behavior"].values():
        if "stabilizationWindowSeconds" in rules:
            rules["stabilizationWindowSeconds"] = min(rules["stabilizationWindowSeconds"], window)
        for policy in rules["policies"]:
            policy["periodSeconds"] = min(policy["periodSeconds"], period)
    for policy in made["spec"]["behavior"]["scaleDown"]["policies"]:
        policy["value"] = 100
    if max_replicas is not None:
        made["spec"]["maxReplicas"] = max_replicas
    return made


def simulated_pool(
    name: str,
    namespace: str,
    *,
    cpu: str = "64",
    memory: str = "512Gi",
    gpus: int = 0,
    model: str = "A100",
    **spec: Any,
) -> JSON:
    """A WorkerPool whose workers kwok simulates; `spec` has further fields, such as replicas."""
    resources = {"cpu": cpu, "memory": memory, "pods": "110", **({GPU: str(gpus)} if gpus else {})}
    labels = {POOL_LABEL: name}
    template = {"metadata": {"labels": labels}, "status": {"allocatable": resources, "capacity": resources}}
    return {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeSelector": {"matchLabels": labels},
            **({"gpu": {"model": model, "count": gpus, "memory": "80Gi"}} if gpus else {}),
            "provider": {"kwok": {"nodeTemplate": template}},
            # The cooldown limits costs in production, and would only delay a test.
            "scaling": {"scaleDownCooldownSeconds": 0},
            **spec,
        },
    }


def workers_of(cluster: Cluster, pool: str) -> list[JSON]:
    """The Node objects of a pool made by `simulated_pool`."""
    return cluster.api.items("/api/v1/nodes", labelSelector=f"{POOL_LABEL}={pool}")


def nudge_forgotten(cluster: Cluster, namespace: str) -> int:
    """Touches pods that should have started or ended and haven't; returns how many.

    kwok occasionally forgets a pod of a node that it has just begun to manage: it lists the node's pods then, and the
    list may be older than the last event of its watch. Any change of the pod makes kwok process it again.
    """
    forgotten = []
    now = datetime.now(UTC)
    for pod in cluster.api.items(f"/api/v1/namespaces/{namespace}/pods"):
        meta, status = pod["metadata"], pod.get("status", {})
        lasts = re.fullmatch(r"([0-9.]+)s", meta.get("annotations", {}).get(RUN_FOR, ""))
        since = {"Pending": meta["creationTimestamp"], "Running": status.get("startTime")}.get(status.get("phase", ""))
        if lasts is not None and since:
            age = (now - datetime.fromisoformat(since)).total_seconds()
            if age > (float(lasts[1]) + LATE_TO_END if status["phase"] == "Running" else LATE_TO_START):
                forgotten.append(meta["name"])
    for name in forgotten[:NUDGES_AT_ONCE]:  # with more, kwok is busy and has forgotten none
        note = {"metadata": {"annotations": {"sim/nudged": now.isoformat()}}}
        with suppress(ApiError):  # it has ended and is gone
            cluster.api.patch(f"/api/v1/namespaces/{namespace}/pods/{name}", note)
    return len(forgotten[:NUDGES_AT_ONCE])


@dataclass(frozen=True)
class Sample:
    """State of one pool and of the workloads of one namespace, `t` seconds after the start of the load."""

    t: float
    queued: int
    """Pending workloads of the namespace."""
    running: int
    """Bound workloads of the namespace."""
    needed: int
    """workers_needed."""
    demand: int
    replicas: int
    """spec.replicas of the pool."""
    workers: int
    """Nodes of the pool."""
    in_use: int
    """Nodes of the pool with workloads of the namespace."""
    utilization: float
    """Utilization of the pool's fullest resource, 0 to 1."""


@dataclass
class Timeline:
    """Samples of one pool, taken by a thread; a context manager."""

    env: Environment
    pool: str
    namespace: str
    every: float = 1.0
    samples: list[Sample] = field(default_factory=list)
    watch: Callable[[Sample], None] | None = None
    """Called with every sample, in the thread that takes them."""
    nudged: int = 0
    """Number of forgotten pods that were touched."""
    ever: set[str] = field(default_factory=set)
    """UIDs of all nodes that the pool has had since the start of the load; names are reused, UIDs are not."""
    _start: float = field(default_factory=time.monotonic)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: tuple[threading.Thread, ...] = ()
    _error: BaseException | None = None

    def __enter__(self) -> Timeline:
        self._threads = tuple(threading.Thread(target=work, daemon=True) for work in (self._follow, self._nudge))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(30)

    def restart_clock(self) -> None:
        """Sets the start of the load to now, and drops earlier samples."""
        self._start = time.monotonic()
        self.ever = set()
        self.samples = []

    def wait(self, condition: Callable[[Sample], bool], what: str, timeout: float = 120) -> Sample:
        """Waits for a new sample that meets the condition; returns it."""
        seen = len(self.samples)

        def met() -> Sample | None:
            if self._error is not None:
                raise RuntimeError(f"the timeline of {self.pool} broke") from self._error
            return next((sample for sample in self.samples[seen:] if condition(sample)), None)

        try:
            return until(met, what=what, timeout=timeout, interval=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(self.lines())) from None

    def _follow(self) -> None:
        try:
            with psycopg.connect(self.env.dsn, autocommit=True) as connection:
                while not self._ended.is_set():
                    sample = self._look(connection)
                    self.samples.append(sample)
                    if self.watch is not None:
                        self.watch(sample)
                    self._ended.wait(self.every)
        except BaseException as error:
            self._error = error

    def _nudge(self) -> None:
        while not self._ended.wait(NUDGE_EVERY):
            with suppress(ApiError):  # the namespace is gone, or not there yet
                self.nudged += nudge_forgotten(self.env.cluster, self.namespace)

    def _look(self, connection: psycopg.Connection[Any]) -> Sample:
        pool = self.env.cluster.api.get(f"{POOLS}/{self.pool}")
        found = workers_of(self.env.cluster, self.pool)
        nodes = {node["metadata"]["name"] for node in found}
        queued, running, used = connection.execute(_COUNTS, [self.namespace]).fetchone() or (0, 0, None)
        figures = self._figures(connection)
        self.ever |= {node["metadata"]["uid"] for node in found}
        shares = [share for share in (figures.get("utilization") or {}).values() if share is not None]
        return Sample(
            t=time.monotonic() - self._start,
            queued=queued,
            running=running,
            needed=figures.get("workers_needed", 0),
            demand=figures.get("running_slots", 0) + figures.get("queued_slots", 0),
            replicas=pool["spec"].get("replicas", 0),
            workers=len(nodes),
            in_use=len(nodes.intersection(used or ())),
            utilization=max(shares, default=0.0),
        )

    def _figures(self, connection: psycopg.Connection[Any]) -> Mapping[str, Any]:
        row = connection.execute("SELECT figures FROM leader_figures").fetchone()
        pools: Sequence[Mapping[str, Any]] = (row[0] if row else {}).get("pools", [])
        return next((pool for pool in pools if pool["pool"] == self.pool), {})

    # Results

    def first(self, condition: Callable[[Sample], bool]) -> float | None:
        """Seconds until the first sample that meets the condition; None without one."""
        return next((sample.t for sample in self.samples if condition(sample)), None)

    def summary(self) -> Summary:
        """First reaction, response and overshoot for a load that began at `restart_clock` and has ended."""
        before = self.samples[0]
        reaction = self.first(lambda sample: sample.replicas > before.replicas)
        loaded = self.first(lambda sample: sample.queued > 0) or 0.0
        placed = self.first(lambda sample: sample.t > loaded and sample.queued == 0 and sample.running > 0)
        shrunk = max((sample.t for sample in self.samples if sample.workers > self.samples[-1].workers), default=0.0)
        return Summary(
            first_reaction=reaction if reaction is not None else float("inf"),
            all_placed=placed if placed is not None else float("inf"),
            shrunk=shrunk,
            peak_replicas=max(sample.replicas for sample in self.samples),
            made=len(self.ever),
            peak_in_use=max(sample.in_use for sample in self.samples),
        )

    def lines(self) -> Iterator[str]:
        """The timeline as text: a line for every change, at most one a second."""
        yield "     t  queue  running  needed  replicas  workers  in use  utilization"
        last: Sample | None = None
        for sample in self.samples:
            if last is not None and (_same(last, sample) or sample.t - last.t < 1) and sample is not self.samples[-1]:
                continue
            last = sample
            yield (
                f"{sample.t:5.1f}s {sample.queued:6d} {sample.running:8d} {sample.needed:7d} {sample.replicas:9d} "
                f"{sample.workers:8d} {sample.in_use:7d} {100 * sample.utilization:11.0f}%"
            )


def _same(one: Sample, other: Sample) -> bool:
    fields = ("queued", "running", "needed", "replicas", "workers", "in_use")
    return all(getattr(one, name) == getattr(other, name) for name in fields)


@dataclass(frozen=True)
class Summary:
    """Reaction of a pool to a load; times are seconds since the start of the load."""

    first_reaction: float
    """Time until the autoscaler raised spec.replicas."""
    all_placed: float
    """Time until no workload was pending."""
    shrunk: float
    """Time until the pool had as few workers as at the end."""
    peak_replicas: int
    made: int
    """Different workers that the pool has had since the start of the load."""
    peak_in_use: int
    """Maximum of workers that had workloads at the same time."""

    @property
    def overshoot(self) -> int:
        """Workers made beyond the maximum in use at the same time."""
        return self.made - self.peak_in_use

    def __str__(self) -> str:
        reaction = f"{self.first_reaction:.1f} s" if self.first_reaction < float("inf") else "none"
        return (
            f"first reaction {reaction}, all placed {self.all_placed:.1f} s, "
            f"shrunk {self.shrunk:.1f} s; peak {self.peak_replicas} replicas, {self.made} workers, "
            f"{self.peak_in_use} in use at once: overshoot {self.overshoot}"
        )


def autoscaler_files() -> list[str]:
    """File names of the autoscalers in hpa/."""
    return sorted(Path(path).name for path in HPA_FOLDER.glob("*.yaml"))
