"""Workloads of releases before v0.1.0-alpha.1: which of their fields have other names now, and their conversion.

`cluster/old_objects.py` finds and exports such objects; migration 0010 does the same with rows in SQL. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

Manifest = Mapping[str, Any]

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"

OLD_TTL_SECONDS: Final = 300
"""Former default of `ttlSecondsAfterFinished`, which the API server wrote into every object."""

_DROPPED_METADATA: Final = (
    *("uid", "resourceVersion", "generation", "creationTimestamp", "selfLink", "managedFields", "generateName"),
    *("deletionTimestamp", "deletionGracePeriodSeconds"),
)
_GPU: Final = "spec.affinity.hard.gpu"
_RETRIES: Final = "spec.maxRetries"
_WORKER_IDS: Final = "workerIds"


def old_fields(spec: Manifest) -> list[str]:
    """Paths of the fields of a Workload's spec that have another name or place now, such as `spec.maxRetries`."""
    found = [_RETRIES] if "maxRetries" in spec else []
    affinity = _mapping(spec.get("affinity"))
    hard = _mapping(affinity.get("hard"))
    found += [f"spec.affinity.hard.{name}" for name in ("gpu", _WORKER_IDS) if name in hard]
    wishes = enumerate(_list(affinity.get("soft")))
    return found + [f"spec.affinity.soft[{n}].{_WORKER_IDS}" for n, wish in wishes if _WORKER_IDS in _mapping(wish)]


def old_managed_fields(managed: Iterable[Manifest]) -> list[str]:
    """The same from an object's `metadata.managedFields`, which name them also after the present
    CustomResourceDefinition has dropped their values. Elements of lists have no number: `spec.affinity.soft`."""
    found: dict[str, None] = {}
    for entry in managed:
        spec = _owned(entry.get("fieldsV1"), "spec")
        affinity = _owned(spec, "affinity")
        hard = _owned(affinity, "hard")
        found |= dict.fromkeys([_RETRIES] if "f:maxRetries" in spec else ())
        found |= dict.fromkeys(f"spec.affinity.hard.{n}" for n in ("gpu", _WORKER_IDS) if f"f:{n}" in hard)
    return list(found)


def lost_fields(obj: Manifest) -> list[str]:
    """Paths of old fields that an object had, and that the present CustomResourceDefinition has dropped."""
    kept = old_fields(_mapping(obj.get("spec")))
    return [path for path in old_managed_fields(obj["metadata"].get("managedFields") or ()) if path not in kept]


def new_spec(spec: Manifest) -> dict[str, Any]:
    """A Workload's spec with the present names. A spec that has them already is returned unchanged, as a copy."""
    found = dict(spec)
    if not old_fields(spec):
        return found
    if "maxRetries" in found:
        retries = found.pop("maxRetries")
        found.setdefault("backoffLimit", retries)
    if not isinstance(found.get("affinity"), Mapping):
        return found
    affinity = dict(found["affinity"])
    hard = dict(_mapping(affinity.get("hard")))
    if "gpu" in hard:
        gpu = hard.pop("gpu")
        found.setdefault("gpu", gpu)
    if hard:
        affinity["hard"] = _named(hard)
    elif affinity.get("hard"):
        del affinity["hard"]
    if isinstance(affinity.get("soft"), list):
        affinity["soft"] = [_named(wish) if isinstance(wish, Mapping) else wish for wish in affinity["soft"]]
    if affinity:
        found["affinity"] = affinity
    else:
        del found["affinity"]
    return found


def new_manifest(obj: Manifest) -> dict[str, Any]:
    """An object as a manifest to apply: present names, and nothing that the API server or an operator wrote.

    `ttlSecondsAfterFinished: 300` is left out unless its author wrote it, as far as `last-applied-configuration` or the
    fields of a server-side apply can tell: it was the default.
    """
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _DROPPED_METADATA}
    annotations = {k: v for k, v in _mapping(metadata.get("annotations")).items() if k != LAST_APPLIED}
    metadata.pop("annotations", None)
    if annotations:
        metadata["annotations"] = annotations
    spec = dict(_mapping(obj.get("spec")))
    if obj.get("kind") == "Workload":
        spec = new_spec(spec)
        if spec.get("ttlSecondsAfterFinished") == OLD_TTL_SECONDS and not _wrote_ttl(obj):
            del spec["ttlSecondsAfterFinished"]
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata, "spec": spec}


def _wrote_ttl(obj: Manifest) -> bool:
    """True if the author of the object, not the API server, wrote its time to live."""
    metadata = obj["metadata"]
    applied = _mapping(metadata.get("annotations")).get(LAST_APPLIED, "")
    if "ttlSecondsAfterFinished" in applied:
        return True
    return any(
        entry.get("operation") == "Apply" and "f:ttlSecondsAfterFinished" in _owned(entry.get("fieldsV1"), "spec")
        for entry in metadata.get("managedFields") or ()
    )


def _named(matcher: Manifest) -> dict[str, Any]:
    """A matcher of workers with `nodeNames`."""
    found = dict(matcher)
    if _WORKER_IDS in found:
        names = found.pop(_WORKER_IDS)
        found.setdefault("nodeNames", names)
    return found


def _owned(fields: Any, name: str) -> Manifest:
    """The fields below `name` in a set of managed fields."""
    return _mapping(_mapping(fields).get(f"f:{name}"))


def _mapping(value: Any) -> Manifest:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
