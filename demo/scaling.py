"""The demo's third act: a burst of work, an autoscaler of hpa/, and a pool that grows for it and shrinks after it.

The HorizontalPodAutoscaler is Kubernetes' own. It reads its metric from the operator's metrics adapter and scales a
WorkerPool whose workers are simulated by kwok.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from demo.display import Display
from testing.cluster.api_client import JSON
from testing.environment import Environment
from testing.scenarios.autoscaling import ScalingScenario, gpu_workloads
from testing.scenarios.scaling_timeline import Sample, Timeline, autoscaler, quick, simulated_pool
from testing.scenarios.workloads import Workloads
from testing.waiting import until

POOL = "gpu-burst"
SPACE = "burst"
FILE = "workers-needed.yaml"
GPUS = 8
COUNT = 120
RUNS = (8, 16)
"""Run times in seconds, from the first workload to the last."""
ROWS = 14
WIDTH = 30
"""Columns of a full bar."""


def hpa() -> JSON:
    """The shipped autoscaler for this pool; it waits seconds where production waits minutes."""
    made = quick(autoscaler(FILE))
    made["metadata"]["name"] = POOL
    made["spec"]["scaleTargetRef"]["name"] = POOL
    made["spec"]["metrics"][0]["object"]["describedObject"]["name"] = POOL
    return made


@dataclass
class ScalingAct:
    """`play` shows the act; `wrong` lists afterwards what did not happen as it should."""

    env: Environment
    display: Display
    wrong: list[str] = field(default_factory=list)
    _printed_at: float = -10.0

    def __post_init__(self) -> None:
        self._scenario = ScalingScenario(self.env, SPACE)

    def prepare(self) -> None:
        """A pool of one worker, a customer, and the autoscaler, which has read its metric."""
        self._scenario.pool(simulated_pool(POOL, self.env.namespace, gpus=GPUS, replicas=1, minReplicas=1))
        self._scenario.apply_autoscaler(hpa())

    def play(self, limit: float) -> None:
        """The burst, from the first submission to the pool's return to one worker."""
        work = self._scenario.workloads(POOL)
        manifests = gpu_workloads(work, COUNT, RUNS)
        with Timeline(self.env, POOL, SPACE, every=0.5) as timeline:
            until(lambda: timeline.samples and timeline.samples[-1].workers == 1, what="the pool has its worker")
            timeline.restart_clock()
            uids = work.create(manifests)
            self._watch(timeline, limit)
        self._judge(timeline, work, uids)

    def _watch(self, timeline: Timeline, limit: float) -> None:
        until(lambda: timeline.samples, what="a first sample", timeout=30)

        def advance() -> bool:
            time.sleep(0.3)
            self._print(timeline.samples[-1])
            last = timeline.samples[-1]
            busy = any(sample.running > 0 for sample in timeline.samples)
            over = busy and last.queued == last.running == 0 and last.workers == last.replicas == 1
            return not over and last.t <= limit

        self.display.follow(lambda: table(timeline), advance)
        self.display.draw(table(timeline, every=4.5))

    def _print(self, sample: Sample) -> None:
        if sample.t - self._printed_at < 2:
            return
        self._printed_at = sample.t
        self.display.change(
            f"{sample.t:5.1f} s  queue {sample.queued:3d}  running {sample.running:3d}  workers needed "
            f"{sample.needed:2d}  replicas {sample.replicas:2d}  workers {sample.workers:2d}"
        )

    def _judge(self, timeline: Timeline, work: Workloads, uids: list[str]) -> None:
        seen = timeline.summary()
        once = work.database.query(
            "SELECT count(*) AS n FROM workload_state WHERE id = ANY(%(ids)s::uuid[]) AND status = 'SUCCEEDED'"
            " AND attempt = 1",
            ids=uids,
        )[0]["n"]
        left = timeline.samples[-1].workers
        self.display.print(
            f"Scaled by {FILE}: first reaction {seen.first_reaction:.1f} s, nothing waited after "
            f"{seen.all_placed:.1f} s, {seen.made} workers for work that fills {COUNT // GPUS}, back to {left} after "
            f"{seen.shrunk:.1f} s; {once} of {COUNT} workloads ran once, undisturbed.",
            soft_wrap=True,
        )
        if once != COUNT:
            self.wrong.append(f"{COUNT - once} workloads of the burst did not run exactly once")
        if seen.made > COUNT // GPUS:
            self.wrong.append(f"{seen.made} workers were made for work that fills {COUNT // GPUS}")
        if left != 1:
            self.wrong.append(f"the pool has {left} workers and not 1 again")


def table(timeline: Timeline, *, every: float = 1.5) -> Table:
    """The last rows of the timeline, one in `every` seconds, with bars for queue and workers."""
    made = Table(title=f"{COUNT} workloads of one GPU for a pool of {GPUS}-GPU workers", title_justify="left")
    for name, fixed in (("s", 5), ("queue", WIDTH + 5), ("needed", 6), ("replicas", 8), ("workers", WIDTH + 4)):
        made.add_column(name, width=fixed, no_wrap=True)
    made.add_column("busy", width=5, justify="right")
    shown: list[Sample] = []
    for sample in timeline.samples:
        if not shown or sample.t - shown[-1].t >= every:
            shown.append(sample)
    if shown and shown[-1] is not timeline.samples[-1]:
        shown.append(timeline.samples[-1])
    most = COUNT // GPUS
    for sample in shown[-ROWS:]:
        made.add_row(
            f"{sample.t:.1f}",
            bar(sample.queued, COUNT, "yellow"),
            str(sample.needed),
            str(sample.replicas),
            bar(sample.workers, most, "cyan"),
            f"{100 * sample.utilization:.0f}%",
        )
    return made


def bar(value: int, most: int, style: str) -> Text:
    filled = min(WIDTH, round(WIDTH * value / most)) if value else 0
    return Text.assemble(("█" * filled, style), f" {value}")
