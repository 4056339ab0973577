"""Assignments and the short texts of a placement."""

from __future__ import annotations

import pytest

from niyanta.lifecycle import Phase
from niyanta.resources.assignments import assignments, node_names, placement_text, pods_text

pytestmark = pytest.mark.unit
UID = "0b821f4a-7a0c-4b62-9c48-0e9a4b4f2c11"


def test_each_pod_has_an_entry_with_its_node_and_name() -> None:
    found = assignments("train", UID, attempt=2, workers=("n1", "n2"), pool="gpu", pools=())
    assert found == [
        {"index": 0, "nodeName": "n1", "poolName": "gpu", "podName": "train-0b821f4a-2-0"},
        {"index": 1, "nodeName": "n2", "poolName": "gpu", "podName": "train-0b821f4a-2-1"},
    ]
    assert node_names(found) == ("n1", "n2")
    (nowhere,) = assignments("train", UID, attempt=1, workers=("n1",), pool="", pools=())
    assert nowhere.keys() == {"index", "nodeName", "podName"}


def test_pods_on_several_pools_have_their_own() -> None:
    found = assignments("train", UID, attempt=2, workers=("n1", "n2", "n3"), pool="gpu", pools=("gpu", "cpu", ""))
    assert [entry.get("poolName") for entry in found] == ["gpu", "cpu", None]


@pytest.mark.parametrize("odd", [None, "n1", {"nodeName": "n1"}, ["n1", None]])
def test_odd_assignments_name_no_node(odd: object) -> None:
    assert node_names(odd) == ()


@pytest.mark.parametrize(
    ("phase", "text"),
    [
        *((phase, "0/3") for phase in (Phase.PENDING, Phase.SCHEDULED, Phase.FAILED, Phase.CANCELLED)),
        *((phase, "3/3") for phase in (Phase.RUNNING, Phase.SUCCEEDED)),
    ],
)
def test_pods_are_counted_at_the_last_transition(phase: Phase, text: str) -> None:
    assert pods_text(phase, 3) == text


@pytest.mark.parametrize(
    ("workers", "text"), [((), ""), (("n1",), "n1"), (("n1", "n1"), "n1"), (("n1", "n2", "n1"), "2 workers")]
)
def test_a_placement_is_a_node_or_a_number_of_workers(workers: tuple[str, ...], text: str) -> None:
    assert placement_text(workers) == text
