"""`make demo` and `make picture` with their output in a file: no questions, no control codes, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testing.processes.run_directory import REPO, temporary_parent

pytestmark = pytest.mark.e2e


def test_the_demo_ends_with_a_summary_and_cleans_up(tmp_path: Path) -> None:
    before = {path.name for path in temporary_parent().glob("demo-*")}
    done = subprocess.run(
        [sys.executable, "-m", "demo.main", "--picture", str(tmp_path / "demo.svg")],
        cwd=REPO,
        env={**os.environ, "COLUMNS": "140"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout, "control codes, and no terminal to take them"
    assert "What was placed where, and why" in done.stdout
    for words in (
        "Succeeded on gpu-h100-us-",
        "attempt 2)",
        "Pending: 0/8 workers: 4 not in region eu-west",
        "events of 14 workloads (table workload_events)",
        "spec.template.spec.hostNetwork: must be false",
        "28 workloads accepted in one request",
        "would fit on an empty worker of pool cpu-eu",
        "Exit code 0 after",
        "workers for work that fills 15, back to 1 after",
        "120 of 120 workloads ran once, undisturbed",
        "29 of 29 submissions by REST ran once",
    ):
        assert words in done.stdout, done.stdout
    picture = (tmp_path / "demo.svg").read_text()
    assert picture.replace("http://www.w3.org/2000/svg", "").count("http") == 0, "the picture refers to another host"
    assert len(picture) < 200_000
    assert {path.name for path in temporary_parent().glob("demo-*")} <= before
