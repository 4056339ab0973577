"""`make bench`: all benchmarks in one run, as a table on the screen, as JSON in `bench/results/latest.json`, as
a page in `docs/benchmarks.md`.

Each part is a module with `run() -> dict`; name parts to run only those: `python -m bench engine`.
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

PARTS = ("engine", "simulation", "end_to_end", "rest", "postgres", "scaling")
RESULTS = Path(__file__).parent / "results" / "latest.json"
DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings with their dotted paths."""
    for key, item in value.items():
        path = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from flatten(item, f"{path}.")
        else:
            yield path, item


def show(results: Mapping[str, Any]) -> None:
    table = Table("part", "figure", "value", title="Benchmarks")
    for part in (name for name in results if name != "machine"):
        for path, item in flatten(results[part]):
            if isinstance(item, list):
                continue  # a series: in the JSON alone
            table.add_row(part, path, f"{item:,}" if isinstance(item, int | float) else str(item))
        table.add_section()
    Console(width=100).print(table)


PAGE = """# Benchmarks

Written by `make bench` (`python -m bench`); `bench/results/latest.json` has the same figures. Machines differ and are
noisy: compare rows of one run, not figures of two machines.

- `engine`: decisions per second of one core, 5,000 workers 70 % full. `different`: 10,000 workloads, each with
  requirements of its own; `repeated`: 20 classes, 10,000 queued; `repeated_long_queue`: 20 classes, 100,000 queued.
  `first_seconds` is the first cycle, with cold caches; the other figures are the best of three.
- `end_to_end`: from queued to bound on a control plane of this machine, 1,000 simulated workers. Workloads are timed
  from the moment their WorkerPool appears, bare pods (kube-scheduler) and Jobs from their first create; all three
  create their pods inside the measured time. `loop_stall` is how late a timer of the leader's event loop fired.
- `rest`: the REST door on a Postgres that syncs every commit.
- `postgres`: bytes per workload on disk (indexes included) while it waits and when it is over, and bytes of write-ahead
  log for each step of its way; see [postgres.md](postgres.md).
- `scaling`: 400 workloads of one GPU for a pool of 8-GPU workers, from 1 worker and from none, scaled by Kubernetes'
  HorizontalPodAutoscaler on `workers_needed` (it looks every 5 s here; machines are ready at once). Seconds from the
  moment the load came; `made` are the workers that the pool had meanwhile, `overshoot` those beyond the most that were
  in use at once. [The plot](images/scaling.png); the JSON has the series.
- `simulation`: 48 hours of queueing, see [queue.md](queue.md).
"""


def page(results: Mapping[str, Any]) -> str:
    """The results as docs/benchmarks.md."""
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
    parser.add_argument("parts", nargs="*", default=PARTS, help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)} (there are: {', '.join(PARTS)})")
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
