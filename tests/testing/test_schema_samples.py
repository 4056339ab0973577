"""Objects made from a schema have every field that the API server accepts, whatever its rules exclude."""

from __future__ import annotations

from typing import Any

import pytest

from testing.scenarios.schema_samples import Refusals, accepted_objects, leaves, parse_field, sample

pytestmark = pytest.mark.unit

TEXT = {"type": "string"}
VOLUME = {"type": "object", "properties": dict.fromkeys(("name", "secret", "configMap", "hostPath"), TEXT)}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "image": TEXT,
        "volumes": {"type": "array", "items": VOLUME},
        "labels": {"type": "object", "additionalProperties": TEXT},
        "nodeName": TEXT,
        "selector": VOLUME,
    },
}


def judge(obj: dict[str, Any]) -> Refusals:
    """A server that demands an image and the name of a volume, allows one source for each, and no node name."""
    spec, found = obj["spec"], []
    if "image" not in spec:
        found.append(("spec.image", "FieldValueRequired", "needed"))
    if "selector" not in spec:
        found.append(("spec.selector", "FieldValueRequired", "needed"))
    elif not spec["selector"]:
        found.append(("spec.selector", "FieldValueInvalid", "must not be empty"))
    if "nodeName" in spec:
        found.append(("spec.nodeName", "FieldValueForbidden", "set by the operator"))
    for number, volume in enumerate(spec.get("volumes", ())):
        if "name" not in volume:
            found.append((f"spec.volumes[{number}].name", "FieldValueRequired", "needed"))
        if len(set(volume) - {"name"}) > 1:
            found.append((f"spec.volumes[{number}]", "FieldValueInvalid", "one source"))
    return found


def test_every_field_is_in_one_of_the_objects_unless_it_is_refused_alone() -> None:
    objects, refused = accepted_objects({"kind": "Thing"}, SCHEMA, judge)
    assert refused.keys() == {("spec", "nodeName")}
    assert ("spec.nodeName", "FieldValueForbidden", "set by the operator") in refused["spec", "nodeName"]
    assert all(judge(obj) == [] for obj in objects)
    covered = {path for obj in objects for path in leaves(obj["spec"], ("spec",))}
    assert covered == set(leaves(sample(SCHEMA), ("spec",))) - refused.keys()
    assert objects[0]["kind"] == "Thing"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "enum": ["b", "a"]}, "b"),
        ({"type": "string", "pattern": "^[0-9]+(Gi)?$"}, "1"),
        ({"type": "string", "minLength": 6, "maxLength": 6}, "aaaaaa"),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "maximum": 0}, 0),
        ({"x-kubernetes-int-or-string": True}, 1),
        ({"type": "array", "items": {"type": "boolean"}}, [True]),
        ({"type": "object", "additionalProperties": TEXT}, {"key": "a"}),
    ],
)
def test_a_sample_is_within_the_bounds(schema: dict[str, Any], value: Any) -> None:
    assert sample(schema) == value


def test_fields_of_causes_are_paths() -> None:
    assert parse_field("spec.containers[0].ports") == ("spec", "containers", 0, "ports")
    assert parse_field("spec.nodeSelector[a/b.c]") == ("spec", "nodeSelector", "a/b.c")
