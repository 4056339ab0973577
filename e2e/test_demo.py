"""`make demo`, as somebody sees it who pipes it into a file: it asks nothing, ends well, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from testing.processes.run_directory import REPO, temporary_parent

pytestmark = pytest.mark.e2e


def test_the_demo_ends_with_a_summary_and_cleans_up() -> None:
    before = {path.name for path in temporary_parent().glob("demo-*")}
    done = subprocess.run(
        [sys.executable, "-m", "demo.main"],
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
        "events of 13 workloads on record",
        "overshoot 0 (workers beyond those in use at once), back to 1 after",
        "120 of 120 workloads ran once, undisturbed",
    ):
        assert words in done.stdout, done.stdout
    assert {path.name for path in temporary_parent().glob("demo-*")} <= before
