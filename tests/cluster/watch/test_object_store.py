"""Objects we created ourselves are known at once, and never outlive the truth."""

from __future__ import annotations

import msgspec
import pytest

from niyanta.cluster.api.objects import Pod
from niyanta.cluster.watch.object_store import ObjectChange, ObjectStore
from tests.fakes.scripted_api_server import pod

pytestmark = pytest.mark.unit


def parsed(name: str, rv: int, uid: str = "") -> Pod:
    return msgspec.convert(pod(name, rv, uid=uid), Pod)


class StoreCase:
    def __init__(self, position: int) -> None:
        self.objects: ObjectStore[Pod] = ObjectStore()
        self.objects.moved_to(str(position))
        self.changes: list[ObjectChange[Pod]] = []

    def assume(self, name: str, rv: int, uid: str = "") -> bool:
        return self.objects.assume(parsed(name, rv, uid), self.changes)

    def event(self, kind: str, name: str, rv: int, uid: str = "") -> None:
        self.objects.event(kind, parsed(name, rv, uid), self.changes)
        self.objects.moved_to(str(rv))

    def relist(self, position: int, *pods: Pod) -> None:
        for each in pods:
            self.objects.listed(each, position, self.changes)
        missing = set(self.objects.store) - {each.key for each in pods}
        self.objects.unlisted(missing, position, self.changes)
        self.objects.moved_to(str(position))

    @property
    def names(self) -> set[str]:
        return {key[1] for key in self.objects.store}

    @property
    def log(self) -> list[str]:
        return [f"{change.kind.value} {change.object.name}" for change in self.changes]


def test_an_assumed_object_is_reported_once() -> None:
    case = StoreCase(10)
    assert case.assume("a", 12)
    case.event("ADDED", "a", 12)
    assert case.log == ["ADDED a"]
    assert case.objects.assumed == 0


def test_an_object_deleted_before_its_create_was_answered_is_not_brought_back() -> None:
    case = StoreCase(10)
    case.event("ADDED", "a", 11)
    case.event("DELETED", "a", 12)
    assert not case.assume("a", 11)
    assert case.names == set()


def test_a_newer_state_is_not_overwritten() -> None:
    case = StoreCase(10)
    case.event("ADDED", "a", 11)
    case.event("MODIFIED", "a", 15)
    assert not case.assume("a", 11)
    assert case.objects.store["ns", "a"].metadata.resource_version == "15"


def test_a_relist_older_than_the_create_keeps_the_object() -> None:
    case = StoreCase(10)
    case.assume("a", 30)
    case.relist(20)
    assert case.names == {"a"}
    case.event("ADDED", "a", 30)
    assert case.log == ["ADDED a"]


def test_a_relist_newer_than_the_create_decides() -> None:
    case = StoreCase(10)
    case.assume("a", 15)
    case.relist(20)
    assert case.names == set()


def test_events_of_a_predecessor_of_the_same_name_are_skipped() -> None:
    case = StoreCase(10)
    case.event("ADDED", "a", 11, uid="old")
    case.assume("a", 20, uid="new")
    case.event("DELETED", "a", 15, uid="old")
    assert case.names == {"a"}
    assert case.log == ["ADDED a", "DELETED a", "ADDED a"]
    case.event("ADDED", "a", 20, uid="new")
    case.event("DELETED", "a", 25, uid="new")
    assert case.names == set()


def test_an_assumed_object_that_the_watch_passes_without_showing_is_dropped() -> None:
    case = StoreCase(10)
    case.assume("a", 15)
    case.objects.moved_to("20")
    case.objects.drop_ghosts(case.changes)
    assert case.log == ["ADDED a", "DELETED a"]


def test_an_older_list_object_does_not_replace_the_assumed_one() -> None:
    case = StoreCase(10)
    case.assume("a", 30, uid="new")
    case.relist(20, parsed("a", 12, uid="old"))
    assert case.objects.store["ns", "a"].uid == "new"
