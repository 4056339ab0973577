"""docs/settings.md equals the generated page."""

from __future__ import annotations

from pathlib import Path

import pytest

from niyanta.cli.main import settings_page

pytestmark = pytest.mark.unit


def test_the_page_of_the_settings_is_current() -> None:
    page = Path(__file__).parent.parent / "docs" / "settings.md"
    assert page.read_text() == settings_page(), "run: niyanta settings > docs/settings.md"
