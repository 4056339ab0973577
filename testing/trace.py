"""The openb trace: its folder, or that of the sample in this repository where the trace is absent.

The trace is not part of the repository: NIYANTA_OPENB_DIR names its folder, ../shared/data/openb beside the checkout is
the default.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

from testing.processes.run_directory import REPO

NODES = "openb_node_list_gpu_node.csv"
TASKS = "openb_pod_list_gpuspec33.csv"
SAMPLE = REPO / "testing" / "data" / "openb_sample"
"""Made by tools/trace_sample.py."""


def trace_folder() -> Path | None:
    """The folder of the trace; None where it is absent."""
    folder = Path(os.environ.get("NIYANTA_OPENB_DIR") or REPO.parent / "shared" / "data" / "openb")
    return folder if (folder / TASKS).is_file() and (folder / NODES).is_file() else None


def trace_or_sample() -> Path:
    """The folder of the trace where it is present, else that of the sample."""
    return trace_folder() or SAMPLE


def absence() -> str:
    """A sentence on the missing trace and what to do; empty where the trace is present."""
    if trace_folder() is not None:
        return ""
    return (
        f"The openb trace is absent (no {TASKS} in NIYANTA_OPENB_DIR or ../shared/data/openb): "
        f"its tests ran on the sample in {SAMPLE.relative_to(REPO)} instead."
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of one of the trace's CSV files."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
