"""Kubernetes' own rules for one pod and one node: quantities, requests, host ports, selectors, tolerations.

`placement_checker` applies them. They share no code with the operator, on purpose: an error in one is not in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

_SUFFIXES: dict[str, int | Decimal] = {
    "": 1, "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("0.001"),
    "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip


def amount(text: object) -> Decimal:
    """The value of a Kubernetes quantity."""
    word = str(text)
    digits = word.rstrip("numkMGTPEi")
    if digits != word and digits[-1:] in "0123456789.":
        return Decimal(digits) * _SUFFIXES[word[len(digits) :]]
    return Decimal(word)


def _requests(part: Mapping[str, Any]) -> dict[str, Decimal]:
    resources = part.get("resources") or {}
    named = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: amount(text) for name, text in named.items()}


def _sum(one: Mapping[str, Decimal], other: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {name: one.get(name, Decimal(0)) + other.get(name, Decimal(0)) for name in {*one, *other}}


def taken_by(pod_spec: Mapping[str, Any]) -> dict[str, Decimal]:
    """Resources that the kubelet reserves for a pod, with 1 of `pods`."""
    steady: dict[str, Decimal] = {}
    for container in pod_spec["containers"]:
        steady = _sum(steady, _requests(container))
    sidecars: dict[str, Decimal] = {}
    peaks = []
    for container in pod_spec.get("initContainers") or []:
        if container.get("restartPolicy") == "Always":
            sidecars = _sum(sidecars, _requests(container))
        else:
            peaks.append(_sum(sidecars, _requests(container)))
    total = _sum(steady, sidecars)
    for peak in peaks:
        total = {name: max(total.get(name, Decimal(0)), peak.get(name, Decimal(0))) for name in {*total, *peak}}
    total = _sum(total, {name: amount(text) for name, text in (pod_spec.get("overhead") or {}).items()})
    return {**total, "pods": Decimal(1)}


def host_ports(pod_spec: Mapping[str, Any]) -> set[tuple[int, str, str]]:
    """(port, protocol, address) of every host port of a pod."""
    return {
        (port["hostPort"], port.get("protocol", "TCP"), port.get("hostIP") or "0.0.0.0")
        for container in pod_spec["containers"]
        for port in container.get("ports") or []
        if port.get("hostPort")
    }


def ports_collide(one: Iterable[tuple[int, str, str]], other: Iterable[tuple[int, str, str]]) -> bool:
    """True when two pods with these host ports can't share a node."""
    return any(
        a[:2] == b[:2] and (a[2] == b[2] or "0.0.0.0" in (a[2], b[2])) for a in one for b in other
    )  # fmt: skip


def holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """True when the labels meet a requirement, as Kubernetes defines its operators."""
    value, values = labels.get(expression["key"]), expression.get("values") or []
    operator = expression["operator"]
    if operator in ("Exists", "DoesNotExist"):
        return bool((value is not None) == (operator == "Exists"))
    if operator == "In":
        return bool(value in values)
    if operator == "NotIn":
        return bool(value not in values)
    if value is None or not value.lstrip("+-").isdigit():
        return False
    return int(value) > int(values[0]) if operator == "Gt" else int(value) < int(values[0])


def selected(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """True when a label selector matches; an empty selector and None match everything."""
    wanted = selector or {}
    exact = all(labels.get(key) == value for key, value in (wanted.get("matchLabels") or {}).items())
    return exact and all(holds(expression, labels) for expression in wanted.get("matchExpressions") or [])


def tolerated(taint: Mapping[str, str], tolerations: Iterable[Mapping[str, Any]]) -> bool:
    """True when one of the tolerations matches the taint."""
    for toleration in tolerations:
        if toleration.get("effect") not in (None, "", taint["effect"]):
            continue
        exists = toleration.get("operator") == "Exists"
        if not toleration.get("key"):
            if exists:
                return True
        elif toleration["key"] == taint["key"] and (exists or toleration.get("value", "") == taint.get("value", "")):
            return True
    return False
