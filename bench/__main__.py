"""Run all benchmarks (`make bench`); print a table and write `bench/results/latest.json` and `docs/benchmarks.md`.

Each part is a module with `run() -> dict`. Name parts to run only these: `python -m bench engine`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PARTS = ("engine", "queue", "simulation", "end_to_end", "rest", "postgres", "scaling")
LONG_PARTS = ("scale",)
"""Parts that are run only when they are named: they take a quarter of an hour each."""

RESULTS = Path(__file__).parent / "results" / "latest.json"
DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their dotted paths."""
    for key, item in value.items():
        path = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from flatten(item, f"{path}.")
        else:
            yield path, item


def show(results: Mapping[str, Any]) -> None:
    """Print the results as a table."""
    table = Table("part", "figure", "value", title="Benchmarks")
    for part in (name for name in results if name != "machine"):
        for path, item in flatten(results[part]):
            if isinstance(item, list):
                continue  # time series are in the JSON only
            table.add_row(part, path, f"{item:,}" if isinstance(item, int | float) else str(item))
        table.add_section()
    Console(width=100).print(table)


PAGE = """# Benchmarks

`make bench` (`python -m bench`) writes this page; `bench/results/latest.json` has the same figures. Figures vary
between machines and runs: compare rows of one run, not figures of two machines.

- `engine`: decisions per second on one core, with 5,000 workers that are 70 % full. `different` has 10,000 workloads,
  each with its own requirements; `repeated` has 20 requirement classes and 10,000 queued workloads;
  `repeated_long_queue` has 20 classes and 100,000 queued workloads. `first_seconds` is the first cycle, with cold
  caches; the other figures are the best of three cycles.
- `queue`: seconds of one cycle with 20,000 classes that fit nowhere on these workers, until all are parked and after
  changes; `different` and `repeated` are those of `engine`, taken from the queue.
- `end_to_end`: time from queued to bound on a control plane on this machine, with 1,000 simulated workers. The time of
  Workloads starts when their WorkerPool appears, that of bare pods (kube-scheduler) and Jobs with the first create; all
  three create their pods within the measured time. `loop_stall` is the delay of timers in the leader's event loop.
- `rest`: the REST door, on a Postgres that syncs every commit.
- `postgres`: bytes per workload on disk (indexes included) while it waits and after it has finished, and bytes of
  write-ahead log for each transition; see [postgres.md](postgres.md).
- `scaling`: 400 workloads of one GPU each for a pool of 8-GPU workers, starting from 1 worker and from 0, scaled by the
  HorizontalPodAutoscaler of Kubernetes on `workers_needed` (its period is 5 s here; machines are ready at once). Times
  are seconds from the arrival of the load. `made` is the number of workers that the pool had during the run,
  `overshoot` the number beyond the most that were in use at once. [The plot](images/scaling.png) shows both runs; the
  JSON has the time series.
- `scale` (only when named, `python -m bench scale`): a leader on a control plane with 5,000 simulated workers and
  1,000,000 workloads submitted by REST, in 20,000 classes of 200 customers that fit no worker. `loaded_seconds` is the
  time from the operator's start until all classes are parked, `idle_cpu` the share of one core that the leader then
  takes, and `failover_seconds` the time from SIGKILL to the first placement of a standby. Times of cycles and stalls
  are upper bounds of the metrics' buckets. The control plane and Postgres share the machine with it.
- `simulation`: 48 hours of queueing with and without the expedited lane, see [queue.md](queue.md). `seconds` and
  `cpu_seconds` are those of the run with the lane.

`python -m bench.ramp` is no part of this page, because it takes long: it submits 10,000 Workloads to an operator at
work, then as many bare pods, and prints when all were bound, Running, and shown as Running in the statuses.
"""


def page(results: Mapping[str, Any]) -> str:
    """The text of docs/benchmarks.md."""
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    lines = [PAGE, f"Machine: {machine}.", "", "| part | figure | value |", "| --- | --- | --- |"]
    for part in (name for name in results if name != "machine"):
        for path, item in flatten(results[part]):
            if not isinstance(item, list):
                shown = f"{item:,}" if isinstance(item, int | float) and not isinstance(item, bool) else str(item)
                lines.append(f"| {part} | {path} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, help=f"parts to run, of: {', '.join((*PARTS, *LONG_PARTS))}")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in (*PARTS, *LONG_PARTS)]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; the parts are {', '.join((*PARTS, *LONG_PARTS))}")
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    results["machine"] = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    for part in options.parts:
        print(f"running {part} ...", flush=True)
        results[part] = importlib.import_module(f"bench.{part}").run()
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=2) + "\n")
        if options.out == RESULTS:
            DOCS.write_text(page(results))
    show(results)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
