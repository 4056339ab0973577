"""Measure and plot the scaling loop: 400 one-GPU workloads for a pool of 8-GPU workers, from 1 worker and from 0.

    python -m bench.scaling [--plot docs/images/scaling.png]

The control plane, Kubernetes' HorizontalPodAutoscaler (with a period of 5 s here, 15 s by default), the metrics adapter
and the scaling controller are real. The machines are simulated and ready at once. The autoscalers are those of hpa/,
with scale-down windows of 20 s instead of five minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from testing.environment import Environment
from testing.scenarios.autoscaling import ScalingScenario, gpu_workloads
from testing.scenarios.scaling_timeline import Timeline, autoscaler, quick, simulated_pool

WORKLOADS = 400
GPUS_PER_WORKER = 8
RUN_SECONDS = (40, 80)
"""Run times of the workloads, from the first to the last."""
SCALE_DOWN_WINDOW_SECONDS = 20
FILES = {"from_1": "workers-needed.yaml", "from_0": "workers-needed-from-zero.yaml"}
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "scaling.png"
SETTINGS = {"NIYANTA_POOL_STATUS_INTERVAL": "1"}


def measure(env: Environment, name: str, file: str) -> Timeline:
    """Measure one run: the load arrives, is served, and the pool shrinks to its first size."""
    scenario = ScalingScenario(env, name.replace("_", "-"))
    shipped = autoscaler(file)
    least = shipped["spec"]["minReplicas"]
    target = shipped["spec"]["scaleTargetRef"]["name"]
    pool = scenario.pool(simulated_pool(target, env.namespace, gpus=GPUS_PER_WORKER, replicas=1, minReplicas=least))
    scenario.apply_autoscaler(quick(shipped, window=SCALE_DOWN_WINDOW_SECONDS, period=15, max_replicas=60))
    scenario.wait_workers(pool, least, timeout=120)
    work = scenario.workloads(pool)
    with scenario.timeline(pool) as timeline:
        timeline.restart_clock()
        work.create(gpu_workloads(work, WORKLOADS, RUN_SECONDS))
        timeline.wait(lambda sample: sample.running > 0, "a workload runs", timeout=300)
        timeline.wait(lambda sample: sample.queued == 0 == sample.running, "all workloads have ended", timeout=300)
        timeline.wait(
            lambda sample: sample.workers == sample.replicas == least, "the pool has its first size", timeout=300
        )
        end = timeline.samples[-1].t
        timeline.wait(lambda sample: sample.t > end + 5, "the end is recorded")
    scenario.close()
    return timeline


def figures(timeline: Timeline) -> dict[str, Any]:
    """Summary and time series of a run, as JSON."""
    seen = timeline.summary()
    names = ("t", "queued", "running", "needed", "replicas", "workers", "in_use", "utilization")
    rows = [",".join(f"{getattr(sample, name):.4g}" for name in names) for sample in timeline.samples[::3]]
    return {
        **{name: round(value, 1) if isinstance(value, float) else value for name, value in asdict(seen).items()},
        "overshoot": seen.overshoot,
        "series": [",".join(names), *rows],
    }


def plot(runs: Mapping[str, Timeline], path: Path) -> None:
    """Plot queue, workers and utilization over time, with a column for each run."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, len(runs), figsize=(12, 8), sharex="col", sharey="row", layout="constrained")
    for column, (name, timeline) in enumerate(runs.items()):
        t = [sample.t for sample in timeline.samples]
        queue, workers, use = axes[0][column], axes[1][column], axes[2][column]

        def line(
            where: Any, field: str, label: str, t: list[float] = t, run: Timeline = timeline, **style: Any
        ) -> None:
            where.plot(t, [getattr(sample, field) for sample in run.samples], label=label, **style)

        line(queue, "queued", "queued workloads", color="C1")
        line(queue, "running", "running workloads", color="C0")
        line(workers, "needed", "workers_needed (the metric)", color="C3", ls=":", lw=2)
        line(workers, "replicas", "spec.replicas (the autoscaler)", color="C4", drawstyle="steps-post")
        line(workers, "workers", "workers (nodes)", color="C2", drawstyle="steps-post")
        line(workers, "in_use", "workers in use", color="grey", lw=1, drawstyle="steps-post")
        use.plot(t, [100 * sample.utilization for sample in timeline.samples], color="C5", label="GPUs taken")
        seen = timeline.summary()
        reacted = f"first reaction {seen.first_reaction:.0f} s, all placed {seen.all_placed:.0f} s"
        queue.set_title(
            f"{WORKLOADS} workloads, from {name.rpartition('_')[2]} worker(s)\n{reacted}, overshoot {seen.overshoot}"
        )
        for axis in (queue, workers, use):
            axis.axvline(seen.first_reaction, color="lightgrey", lw=1, zorder=0)
            axis.grid(alpha=0.2)
            if column == 0:
                axis.legend(fontsize=8)
        use.set(xlabel="seconds since the load arrived", ylim=(0, 105))
    axes[0][0].set_ylabel("workloads")
    axes[1][0].set_ylabel("workers")
    axes[2][0].set_ylabel("utilization of the pool (%)")
    figure.suptitle("A WorkerPool of 8-GPU workers, scaled by an HPA on workers_needed")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(image: Path | None = IMAGE) -> dict[str, Any]:
    """Run both measurements in one environment and write the plot."""
    with Environment.start(
        "bench-scaling", fast_node_loss=False, adapter=True, operators=1, operator_env=SETTINGS
    ) as env:
        runs = {name: measure(env, name, file) for name, file in FILES.items()}
    if image is not None:
        plot(runs, image)
    return {
        "workloads": WORKLOADS,
        "gpus_per_worker": GPUS_PER_WORKER,
        **{name: figures(timeline) for name, timeline in runs.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--plot", type=Path, default=None, help=f"path of the plot to write (the documentation has {IMAGE})"
    )
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.plot), indent=2))


if __name__ == "__main__":
    main()
