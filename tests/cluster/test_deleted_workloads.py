"""Deletions that kopf's watch missed are found by a list, whatever the list holds."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from niyanta.cluster import deleted_workloads
from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError
from niyanta.cluster.deleted_workloads import DeletedWorkloads
from tests.fakes.scripted_api_server import until

pytestmark = pytest.mark.unit


class UidLists:
    """Lists the UIDs of `answers` in turn; an exception is raised."""

    def __init__(self, *answers: set[str] | Exception) -> None:
        self.answers = list(answers)

    async def list_uids(self, _: object) -> set[str]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_odd_lists_and_listeners_that_raise_do_not_end_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deleted_workloads, "SETTLE_SECONDS", 0.0)
    client = UidLists(ApiError(500, "InternalError", ""), RecursionError("a list too deep"), {"a", "other"})
    told: list[str] = []

    def on_deleted(uid: str) -> None:
        told.append(uid)
        if uid == "b":
            raise RuntimeError("a listener that fails")

    deleted = DeletedWorkloads(cast(ApiClient, client), on_deleted=on_deleted)
    task = asyncio.create_task(deleted.run(lambda: {"a", "b", "c"}))
    await asyncio.sleep(0)  # `run` forgets what was listed before it
    while set(told) != {"b", "c"}:
        deleted.kopf_listed()
        await asyncio.sleep(0.005)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(task.done)
