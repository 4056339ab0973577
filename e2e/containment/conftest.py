"""A hostile tenant and a bystander on a live operator and REST door."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.processes.rest_door import RestDoor
from testing.scenarios.tenant import Tenant

LONG = os.environ.get("NIYANTA_POISON") == "1"
"""The long forms run, as by `make poison`: alone on the machine, so that times are checked too."""

PLACED_WITHIN_SECONDS = 5.0 if LONG else 60.0
"""Longest time until the bystander's Workload is placed. The short forms share the machine with other tests."""


@pytest.fixture
def hostile(env: Environment, operator: OperatorProcess, unique: str) -> Iterator[Tenant]:
    # Enough room for all that it creates: a queue that waits for room is another matter.
    tenant = Tenant(env, f"{unique}-a", nodes=4, cpu="5000")
    yield tenant
    tenant.close()


@pytest.fixture
def bystander(env: Environment, operator: OperatorProcess, unique: str) -> Iterator[Tenant]:
    """A tenant in another namespace; its first Workload has been placed."""
    tenant = Tenant(env, f"{unique}-b")
    tenant.place()
    yield tenant
    tenant.close()


@pytest.fixture
def door(env: Environment, hostile: Tenant) -> Iterator[RestDoor]:
    """A REST door; its client has a key of the hostile tenant."""
    made = RestDoor(env, hostile.name)
    yield made
    made.close()
