"""Annotations of Customers and WorkerPools are followed, although they don't change the generation."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.cluster.watch.resource_store import ResourceStore
from niyanta.containment import Boundary
from niyanta.resources.models.customer import Customer

pytestmark = pytest.mark.unit


def customer(generation: int, **annotations: str) -> dict[str, Any]:
    metadata = {"name": "acme", "uid": "u", "generation": generation, "annotations": annotations}
    return {"apiVersion": "niyanta.io/v1alpha1", "kind": "Customer", "metadata": metadata, "spec": {}}


def test_a_changed_annotation_is_stored_and_told() -> None:
    told: list[int] = []
    store = ResourceStore(Customer, lambda: told.append(1), boundary=Boundary.CUSTOMER)
    store.on_event("ADDED", customer(1))
    store.on_event("MODIFIED", customer(1, mark="now"))
    found = store.items()["acme"].metadata.model_extra
    assert found is not None
    assert found["annotations"] == {"mark": "now"}
    store.on_event("MODIFIED", customer(1, mark="now"))
    assert len(told) == 2


def test_an_older_generation_with_other_annotations_is_dropped() -> None:
    store = ResourceStore(Customer, lambda: None, boundary=Boundary.CUSTOMER)
    store.on_event("ADDED", customer(2, mark="now"))
    store.on_event("MODIFIED", customer(1))
    found = store.items()["acme"].metadata
    assert found.generation == 2
