"""The present schemas accept what the schemas of every tagged release did: fields are only added."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from testing.checks.crd_changes import breaking_changes
from testing.processes.run_directory import REPO

pytestmark = pytest.mark.unit

FROZEN = sorted((REPO / "testing" / "data" / "crds").glob("v*/*.yaml"))


def test_the_definitions_of_a_release_are_kept() -> None:
    assert FROZEN, "make freeze-crds VERSION=..."


@pytest.mark.parametrize("file", FROZEN, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_nothing_is_removed_or_tightened(file: Path) -> None:
    present = REPO / "crds" / file.name
    assert present.exists(), f"{file.stem} is gone"
    old, new = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (file, present))
    assert breaking_changes(old, new) == []
