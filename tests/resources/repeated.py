"""Repetition of random tests: once by default, for NIYANTA_POISON_SECONDS each under `make poison`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

SECONDS = float(os.environ.get("NIYANTA_POISON_SECONDS", "0"))


def repeated(random_test: Callable[[], None]) -> None:
    """Run a hypothesis test once, and again, with other examples, until SECONDS have passed."""
    started = time.monotonic()
    random_test()
    while time.monotonic() - started < SECONDS:
        random_test()
