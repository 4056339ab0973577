"""Objects with every field that a CustomResourceDefinition has, made from its schema.

Rules exclude some combinations of fields (one source for each volume, fields that are always refused), so an API server
judges each object in a dry run: what it refuses is left out, and tried again in another object.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

JSON = dict[str, Any]
Path = tuple[str | int, ...]
Refusals = Sequence[tuple[str, str, str]]
"""Causes of a refusal as in a Status: field, reason, message. None if the object is accepted."""
Judge = Callable[[JSON], Refusals]

MOST_ATTEMPTS = 300
"""Requests for one object."""

_TEXTS = ("a", "1", "1Gi", "example.com/a", "/a", "ab", "2026-01-01T00:00:00Z", "A", "RuntimeDefault", "None")
_STEP = re.compile(r"\[(\d+)\]|\[([^\]]+)\]|([^.\[]+)")


def sample(schema: Mapping[str, Any]) -> Any:
    """A value with every field of a structural schema, within its bounds."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("x-kubernetes-int-or-string"):
        return 1
    kind = schema.get("type")
    if kind == "object":
        found = {name: sample(child) for name, child in schema.get("properties", {}).items()}
        values = schema.get("additionalProperties")
        return found | ({"key": sample(values)} if isinstance(values, Mapping) else {})
    if kind == "array":
        return [sample(schema["items"])] * max(1, schema.get("minItems", 1))
    if kind == "string":
        return _text(schema)
    if kind == "boolean":
        return True
    if kind in ("integer", "number"):
        return max(1, schema.get("minimum", 1)) if schema.get("maximum", 1) >= 1 else schema["maximum"]
    return {}


def _text(schema: Mapping[str, Any]) -> str:
    if schema.get("format") in ("date-time", "byte"):
        return "2026-01-01T00:00:00Z" if schema["format"] == "date-time" else "YQ=="
    pattern = re.compile(schema.get("pattern", ""))
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", 1000)
    fitting = (text for text in _TEXTS if pattern.search(text) and shortest <= len(text) <= longest)
    return next(fitting, "a" * max(1, shortest))


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of the fields of a value; elements of lists and values of maps count as one, whichever they are."""
    if isinstance(value, Mapping) and value:
        for name, child in value.items():
            yield from leaves(child, (*path, name))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*path, 0))
    else:
        yield path


def parse_field(field: str) -> Path:
    """`spec.containers[0].ports` as a path; a key in brackets (`labels[a]`) is a step too."""
    return tuple(int(number) if number else key or name for number, key, name in _STEP.findall(field))


def accepted_objects(base: JSON, schema: Mapping[str, Any], judge: Judge) -> tuple[list[JSON], dict[Path, Refusals]]:
    """Objects that the judge accepts, and the fields that it accepts in none of them, with what it says of an object
    that has nothing else. `base` has apiVersion, kind and metadata; `schema` is that of `spec`."""
    whole = {"spec": sample(schema)}
    missing = set(leaves(whole["spec"], ("spec",)))
    objects: list[JSON] = []
    refused: dict[Path, Refusals] = {}
    together = True
    while missing:
        wanted = missing if together else {min(missing, key=str)}
        found, refusals = _accepted(base, whole, wanted, judge)
        covered = set(leaves(found["spec"], ("spec",))) & missing
        if covered & wanted:
            objects.append(found)
        elif not together:
            refused |= dict.fromkeys(wanted, refusals)
        together = together and bool(covered & wanted)
        missing -= covered | refused.keys()
    return objects, refused


def _accepted(base: JSON, whole: JSON, wanted: set[Path], judge: Judge) -> tuple[JSON, Refusals]:
    """An object with as many of the wanted fields as the judge accepts together, with what it demands beside, and all
    refusals on the way. Its spec is empty if there is no such object."""
    obj = {**copy.deepcopy(base), "spec": {}}
    for path in sorted(wanted, key=str):
        _put(obj, path, whole)
    required: set[Path] = set()
    filled: set[Path] = set()
    last: Refusals = ()
    for _ in range(MOST_ATTEMPTS):
        refusals = judge(obj)
        if not refusals:
            return obj, last
        last, changed = [*last, *refusals], False
        for field, reason, _message in refusals:
            path = parse_field(field)
            if reason == "FieldValueRequired" and path not in required and _get(whole, path) is not None:
                required.add(path)
                _put(obj, path, whole, bare=True)
                changed = True
            elif path in required and path not in filled and _get(obj, path) in ({}, []):
                filled.add(path)
                _get(obj, path[:-1])[path[-1]] = copy.deepcopy(_get(whole, path))
                changed = True
            else:
                changed |= _drop(obj, path, required)
        if not changed:
            break
    return {**base, "spec": {}}, last


def _get(value: Any, path: Path) -> Any:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _put(obj: Any, path: Path, whole: Any, *, bare: bool = False) -> None:
    """Copy the value at a path of `whole` into `obj`, with the containers on the way; `bare`: an object without its
    fields, a list with one such element."""
    for step, following in zip(path, (*path[1:], None), strict=True):
        whole = whole[step]
        if following is None:
            new = _bare(whole) if bare else copy.deepcopy(whole)
        else:
            new = [] if isinstance(following, int) else {}
        if isinstance(step, int):
            while len(obj) <= step:
                obj.append(new)
        else:
            obj.setdefault(step, new)
        obj = obj[step]


def _bare(value: Any) -> Any:
    if isinstance(value, list):
        return [_bare(value[0])] if value else []
    return {} if isinstance(value, Mapping) else value


def _drop(obj: JSON, path: Path, required: set[Path]) -> bool:
    """Remove the refused field; from a refused container only one of its fields, because a rule may exclude a
    combination. True if something was removed."""
    while len(path) > 1 and _get(obj, path) is None:
        path = path[:-1]
    value = _get(obj, path)
    children = [*value] if isinstance(value, Mapping) else [*range(len(value))] if isinstance(value, list) else []
    spare = [child for child in children if (*path, child) not in required]
    if len(spare) > 1 or (spare and len(path) == 1):
        return _remove(value, spare[-1])
    if len(path) < 2:
        return False
    return _remove(_get(obj, path[:-1]), path[-1])


def _remove(container: Any, step: str | int) -> bool:
    del container[step]
    return True
