"""Tables of the REST door's resources. A missing field is an empty cell, so that older servers work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from niyanta.client.output import Column, age, duration, joined, number, parse_time

_STYLES = {
    "Succeeded": "green",
    "Running": "cyan",
    "Scheduled": "cyan",
    "Pending": "yellow",
    "Held": "magenta",
    "Suspended": "magenta",
    "Failed": "red",
    "Cancelled": "red",
}


def items_of(page: Any) -> list[Any]:
    """Items of a list response: `{"items": [...]}`, or a plain list."""
    found = page.get("items", []) if isinstance(page, dict) else page
    return list(found or [])


def phase_of(item: Mapping[str, Any] | None) -> str:
    """The phase as text; empty if it isn't known."""
    return str((item or {}).get("phase") or "")


def phase_style(item: Mapping[str, Any]) -> str:
    return _STYLES.get(phase_of(item), "")


def text(name: str) -> Callable[[Any], str]:
    """A function that makes the cell of a field."""
    return lambda item: number(item.get(name)) if not isinstance(item.get(name), list) else joined(item[name])


def _nodes(item: Any) -> str:
    nodes = item.get("nodeNames") or []
    return joined(nodes) if len(nodes) <= 2 else f"{nodes[0]} (+{len(nodes) - 1})"


def _pools(item: Any) -> str:
    """Pools of a workload's workers."""
    found = (entry.get("poolName") for entry in item.get("assignments") or ())
    return joined(list(dict.fromkeys(name for name in found if name)))


def _reason(item: Any) -> str:
    return str(item.get("reason") or "")


def _run_time(item: Any) -> str:
    """Run time of the current or last attempt."""
    start, end = parse_time(item.get("startTime")), parse_time(item.get("completionTime"))
    return duration(((end or datetime.now(UTC)) - start).total_seconds()) if start else ""


def worker_state(item: Mapping[str, Any]) -> str:
    if not item.get("ready", True):
        return "NotReady"
    if item.get("draining"):
        return "Draining"
    return "Cordoned" if item.get("cordoned") else "Ready"


def _requested_by(item: Any) -> str:
    """Author of a request to cordon or drain the worker, for admin keys."""
    request = item.get("request") or {}
    closed = worker_state(item) in ("Draining", "Cordoned") and request.get("action") in ("cordon", "drain")
    return str(request.get("requestedBy") or "") if closed else ""


def _worker_style(item: Any) -> str:
    return {"NotReady": "red", "Cordoned": "magenta", "Draining": "magenta"}.get(worker_state(item), "green")


def _gpu_share(item: Any) -> str:
    """GPUs in use and in total, of the first resource named */gpu."""
    resource = gpu_resource(item)
    if not resource:
        return ""
    used, whole = item.get("used"), item["allocatable"][resource]
    return number(whole) if used is None else of(used.get(resource, 0), whole)


def _slots(item: Any) -> str:
    """Slots of a worker in use and in total; empty for keys that may not see usage."""
    used, most = item.get("slotsUsed"), item.get("slots")
    return "" if used is None else of(used, most)


WORKLOADS = (
    Column("Name", text("name")),
    Column("Id", text("id")),
    Column("Phase", phase_of, style=phase_style),
    Column("Pods", text("pods"), right=True),
    Column("Customer", text("customer")),
    Column("Priority", text("effectivePriority"), right=True),
    Column("Placement", text("placement")),
    Column("Age", lambda item: age(item.get("createdAt"))),
    Column("Reason", _reason),
    Column("Namespace", text("namespace"), wide=True),
    Column("Type", text("type"), wide=True),
    Column("Score", text("score"), wide=True, right=True),
    Column("Pool", _pools, wide=True),
    Column("Attempts", text("attempts"), wide=True, right=True),
    Column("Duration", _run_time, wide=True),
    Column("Door", text("door"), wide=True),
    Column("Object", text("objectName"), wide=True),
    Column("Message", text("message"), wide=True),
)

ACCEPTED = (
    Column("Name", text("name")),
    Column("Id", text("id")),
    Column("Phase", phase_of, style=phase_style),
    Column("Customer", text("customer")),
    Column("Namespace", text("namespace")),
)

EVENTS = (
    Column("Age", lambda item: age(item.get("at"))),
    Column("Event", text("event")),
    Column("From", text("fromPhase")),
    Column("To", text("toPhase"), style=lambda item: _STYLES.get(str(item.get("toPhase")), "")),
    Column("Attempt", text("attempt"), right=True),
    Column("Workers", _nodes),
    Column("Reason", text("reason")),
    Column("Message", text("message")),
    Column("At", text("at"), wide=True),
    Column("Score", text("score"), wide=True, right=True),
)

CUSTOMERS = (
    Column("Name", text("name")),
    Column("Tier", text("tier")),
    Column("Pending", lambda item: count(item, "pending"), right=True),
    Column("Held", lambda item: count(item, "held"), right=True),
    Column("Suspended", lambda item: count(item, "suspended"), right=True),
    Column("Waiting/max", lambda item: of(_stats(item).get("waiting"), _stats(item).get("maxQueueDepth")), right=True),
    Column(
        "Running/max", lambda item: of(_stats(item).get("concurrent"), _stats(item).get("maxConcurrent")), right=True
    ),
    Column("Oldest", lambda item: duration(_stats(item).get("oldestPendingSeconds")), right=True),
    Column("Placed/min", lambda item: number(_stats(item).get("placedPerMinute")), right=True),
    Column("Namespaces", text("namespaces")),
    Column("Succeeded", lambda item: count(item, "succeeded"), wide=True, right=True),
    Column("Failed", lambda item: count(item, "failed"), wide=True, right=True),
    Column("Cancelled", lambda item: count(item, "cancelled"), wide=True, right=True),
    Column(
        "Submit/s", lambda item: number((item.get("limits") or {}).get("submitRatePerSecond")), wide=True, right=True
    ),
    Column("Service accounts", text("serviceAccounts"), wide=True),
    Column("Secrets", text("secrets"), wide=True),
)

WORKERS = (
    Column("Name", text("name")),
    Column("Pool", text("pool")),
    Column("State", worker_state, style=_worker_style),
    Column("Slots", _slots, right=True),
    Column("CPU", lambda item: share(item, "cpu"), right=True),
    Column("Memory", lambda item: share(item, "memory"), right=True),
    Column("GPU", _gpu_share, right=True),
    Column("Model", text("gpuModel")),
    Column("Zone", text("zone")),
    Column("Requested by", _requested_by),
    Column("Region", text("region"), wide=True),
    Column("Request", lambda item: str((item.get("request") or {}).get("message") or ""), wide=True),
    Column("Updated", lambda item: age(item.get("updatedAt")), wide=True),
)

POOLS = (
    Column("Name", text("name")),
    Column("Ready", lambda item: of(_status(item).get("readyReplicas"), _status(item).get("replicas")), right=True),
    Column("Queue", lambda item: number(_status(item).get("queueDepth")), right=True),
    Column("Running", lambda item: number(_status(item).get("runningWorkloads")), right=True),
    Column("Strategy", lambda item: str(_spec(item).get("strategy") or "")),
    Column("GPU", lambda item: str((_spec(item).get("gpu") or {}).get("model") or "")),
    Column("Region", lambda item: str(_spec(item).get("region") or "")),
    Column("Capabilities", lambda item: joined(_spec(item).get("capabilities")), wide=True),
    Column("Compliance", lambda item: joined(_spec(item).get("compliance")), wide=True),
)

DECISIONS = (
    Column("Age", lambda item: age(item.get("at"))),
    Column("Action", text("action")),
    Column("Worker", text("worker")),
    Column("Current", text("had"), right=True),
    Column("Desired", text("wanted"), right=True),
    Column("Message", text("message")),
    Column("Reason", text("reason"), wide=True),
    Column("Instance", text("instance"), wide=True),
    Column("At", text("at"), wide=True),
)

DEPTHS = (
    Column("Scope", lambda item: str(item["of"])),
    Column("Name", lambda item: str(item["name"])),
    Column("Pending", lambda item: str(item["pending"]), right=True),
)


def of(used: Any, most: Any) -> str:
    """`3/10`, or `3` without a limit."""
    return number(used) if most is None else f"{number(used or 0)}/{number(most)}"


def count(item: Mapping[str, Any], name: str) -> str:
    """Number of a customer's workloads in a phase."""
    return number((_stats(item).get("counts") or {}).get(name))


def _stats(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return item.get("stats") or {}


def _status(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return item.get("status") or {}


def _spec(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return item.get("spec") or {}


# --- Workers ---------------------------------------------------------------------------------------------------------


def fraction(item: Mapping[str, Any], resource: str) -> float | None:
    """Share of a resource in use, 0 to 1; None if the worker lacks it or the key may not see usage."""
    whole, used = (item.get("allocatable") or {}).get(resource), item.get("used")
    return used.get(resource, 0) / whole if whole and used is not None else None


def share(item: Mapping[str, Any], resource: str) -> str:
    """Share of a resource in use, as a percentage."""
    part = fraction(item, resource)
    return "" if part is None else f"{part:.0%}"


def gpu_resource(item: Mapping[str, Any]) -> str:
    return next((name for name in sorted(item.get("allocatable") or {}) if name.endswith("/gpu")), "")


# --- The queue -------------------------------------------------------------------------------------------------------


def depth_rows(depth: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of DEPTHS, from the response of /v1/metrics/queue-depth."""
    yield {"of": "total", "name": "", "pending": depth.get("total", 0)}
    for part in ("held", "suspended"):
        yield {"of": part, "name": "", "pending": depth.get(part, 0)}
    for kind, key in (("tier", "byTier"), ("customer", "byCustomer"), ("pool", "byPool")):
        for name, pending in sorted((depth.get(key) or {}).items(), key=lambda pair: (-pair[1], pair[0])):
            yield {"of": kind, "name": name, "pending": pending}


# --- Events and explanations -----------------------------------------------------------------------------------------


def event_line(item: Mapping[str, Any], event: Mapping[str, Any]) -> str:
    """An event as one line, for `--watch`."""
    at = parse_time(event.get("at"))
    clock = at.astimezone().strftime("%H:%M:%S") if at else "--:--:--"
    before, after = event.get("fromPhase"), event.get("toPhase")
    move = f"{before} -> {after}" if before and before != after else str(after)
    where = f" on {_nodes(event)}" if event.get("nodeNames") else ""
    reason = ": ".join(str(part) for part in (event.get("reason"), event.get("message")) if part)
    return f"{clock} {item.get('name')} {move}{where}" + (f" ({reason})" if reason else "")


def explanation(item: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(heading, text) lines that explain a workload's phase."""
    yield "Workload", f"{item.get('namespace')}/{item.get('name')}  {found.get('id')}"
    reason = ": ".join(str(part) for part in (found.get("reason"), found.get("message")) if part)
    yield "Phase", phase_of(found) + (f" ({reason})" if reason else "")
    yield "Priority", f"{number(found.get('effectivePriority'))}  = {found.get('priorityFormula', '')}"
    if placed := item.get("assignments"):
        score = f", score {number(item.get('score'))}" if item.get("score") is not None else ""
        yield "Workers", f"{joined([entry.get('nodeName') for entry in placed])} (pool {_pools(item)}{score})"
    if position := found.get("position"):
        more = "" if position.get("exact", True) else "at least "
        yield "Queue", f"{more}{position.get('ahead')} ahead"
    if estimate := found.get("estimatedStart"):
        seconds = estimate.get("seconds")
        when = "not known" if seconds is None else f"in about {duration(seconds)}"
        yield "Start", f"{when} ({estimate.get('basis', '')})"
    if found.get("notBefore"):
        yield "Backoff", f"until {found['notBefore']}"
    for name, until in (found.get("avoidedWorkers") or {}).items():
        yield "Avoided worker", f"{name} until {until}"
    if (alike := found.get("waitingInClass")) and alike > 1:
        yield "Waiting alike", f"{alike} workloads of this class, which need the same"
    if found.get("reasonsOfClass"):
        yield "Reasons", "of its class: this workload was not tried by itself yet"
    for entry in found.get("reasons") or ():
        detail = f" ({entry['detail']})" if entry.get("detail") else ""
        yield "Workers ruled out", f"{entry.get('count')}: {entry.get('reason')}{detail}"
    if miss := found.get("nearestMiss"):
        yield "Nearest miss", _miss(miss)
    if fits := found.get("fitsPool"):
        most = fits.get("atMaximum")
        full = "" if most is None else f" (at its maximum of {most} workers)"
        yield "Would fit", f"on an empty worker of pool {fits.get('pool')}{full}"
    if closest := found.get("closestPool"):
        yield "Closest pool", f"{closest.get('pool')}; its empty workers fail {joined(closest.get('failed') or ())}"


def _miss(miss: Any) -> str:
    if not isinstance(miss, Mapping):
        return str(miss)
    return ", ".join(f"{name}: {joined(value)}" for name, value in miss.items())
