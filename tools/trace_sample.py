"""Writes the sample of the openb trace that tests use where the trace itself is absent.

    python tools/trace_sample.py ../shared/data/openb testing/data/openb_sample

The sample has the trace's columns with figures alone: every eighth node, every third task that arrives in the first
eight hours of the folded trace (see bench/trace.py), renamed by number.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from bench.trace import FOLD_SECONDS, FULL_RATE_FROM_SECOND
from testing.trace import NODES, TASKS, read_rows

HOURS = 8
NODE_STEP = 8
TASK_STEP = 3


def in_first_hours(task: dict[str, str]) -> bool:
    """True when the task arrives in the first hours of the folded trace."""
    created = int(task["creation_time"])
    return created >= FULL_RATE_FROM_SECOND and (created - FULL_RATE_FROM_SECOND) % FOLD_SECONDS < HOURS * 3600


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows with the columns of the first one."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Read the trace in the first folder and write the sample to the second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument("sample", type=Path)
    options = parser.parse_args()
    nodes = sorted(read_rows(options.trace / NODES), key=lambda row: (row["model"], row["gpu"], row["sn"]))[::NODE_STEP]
    tasks = [row for row in read_rows(options.trace / TASKS) if in_first_hours(row)][::TASK_STEP]
    write(options.sample / NODES, [{**row, "sn": f"node-{number:03}"} for number, row in enumerate(nodes)])
    write(options.sample / TASKS, [{**row, "name": f"task-{number:03}"} for number, row in enumerate(tasks)])


if __name__ == "__main__":
    main()
