"""The running adapter that tests of its server share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.custom_metrics.adapter_scenario import AdapterScenario, running


@pytest.fixture
async def scenario(tmp_path: Path) -> AsyncIterator[AdapterScenario]:
    async with running(AdapterScenario(tmp_path)) as made:
        yield made
