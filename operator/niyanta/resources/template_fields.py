"""Access to fields of a raw pod template by path.

Fields that the models pass on can hold any JSON, so a value of an unexpected type counts as empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Manifest = Mapping[str, Any]
POD = "spec.template.spec"


@dataclass(frozen=True, slots=True)
class Violation:
    """A field that isn't allowed, and the reason."""

    field: str
    message: str


def as_map(value: Any) -> Manifest:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """`value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def containers_of(pod: Manifest) -> Iterator[tuple[str, Manifest]]:
    """(path, container) of every container of a pod's spec."""
    for group in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(as_list(pod.get(group))):
            yield f"{group}[{index}]", as_map(container)


def walk(pod: Manifest, pattern: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of each field that `pattern` matches; the value is None where the field is absent.

    Patterns start at the pod's spec, or with `*` at each container and init container; `[]` iterates over a list.
    """
    if pattern.startswith("*."):
        for path, container in containers_of(pod):
            yield from _descend(path, container, pattern[2:].split("."))
    else:
        yield from _descend("", pod, pattern.split("."))


def _descend(path: str, value: Any, steps: list[str]) -> Iterator[tuple[str, Any]]:
    if not steps:
        yield path, value
        return
    step, *rest = steps
    name = step.removesuffix("[]")
    here = f"{path}.{name}" if path else name
    inner = as_map(value).get(name)
    if step.endswith("[]"):
        for index, item in enumerate(as_list(inner)):
            yield from _descend(f"{here}[{index}]", item, rest)
    else:
        yield from _descend(here, inner, rest)
