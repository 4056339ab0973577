"""The reference's rules of matching: labels, terms, tolerations, matchers and ports, one object at a time."""

from __future__ import annotations

from niyanta.engine.types import (
    Expression,
    HostPort,
    Matcher,
    NodeTerm,
    Op,
    PeerTerm,
    Scope,
    Selector,
    Subject,
    Taint,
    Toleration,
    WorkerInfo,
)


def matches(labels: dict[str, str], e: Expression) -> bool:
    have = labels.get(e.key)
    if e.op is Op.IN:
        return have is not None and have in e.values
    if e.op is Op.NOT_IN:
        return have is None or have not in e.values
    if e.op is Op.EXISTS:
        return have is not None
    if e.op is Op.DOES_NOT_EXIST:
        return have is None
    try:
        return have is not None and (int(have) > int(e.values[0]) if e.op is Op.GT else int(have) < int(e.values[0]))
    except ValueError:
        return False


def selected(selector: Selector, subject: Subject) -> bool:
    return (
        (not selector.types or subject.type in selector.types)
        and (not selector.customers or subject.customer in selector.customers)
        and all(matches(dict(subject.labels), e) for e in selector.labels)
    )


def means(t: PeerTerm, carrier: Subject | None, other: Subject) -> bool:
    assert carrier is not None
    if t.scope is Scope.NAMESPACE and carrier.namespace != other.namespace:
        return False
    if t.scope is Scope.CUSTOMER and carrier.customer != other.customer:
        return False
    return selected(t.selector, other)


def tolerated(taint: Taint, tolerations: tuple[Toleration, ...]) -> bool:
    for t in tolerations:
        effect = t.effect in ("", taint.effect)
        key = t.exists if t.key == "" else t.key == taint.key
        if effect and key and (t.exists or t.value == taint.value):
            return True
    return False


def node_term(t: NodeTerm, node: WorkerInfo) -> bool:
    if not t.expressions and not t.fields:
        return False
    named = {"metadata.name": node.name}
    known = all(f.key == "metadata.name" and f.op in (Op.IN, Op.NOT_IN) for f in t.fields)
    labels = dict(node.labels)
    return known and all(matches(labels, e) for e in t.expressions) and all(matches(named, f) for f in t.fields)


def matcher(m: Matcher, n: WorkerInfo) -> bool:
    return (
        (not m.node_names or n.name in m.node_names)
        and (not m.pools or n.pool in m.pools)
        and (not m.regions or n.region in m.regions)
        and (not m.zones or n.zone in m.zones)
        and set(m.compliance) <= n.compliance
        and set(m.capabilities) <= n.capabilities
        and (not m.gpu_models or bool(n.gpu and n.gpu.model.lower() in [x.lower() for x in m.gpu_models]))
        and (not m.gpu_min_memory or bool(n.gpu and n.gpu.memory >= m.gpu_min_memory))
        and all(matches(dict(n.tags), e) for e in m.tags)
    )


def collide(a: HostPort, b: HostPort) -> bool:
    same = (a.port, a.protocol) == (b.port, b.protocol)
    return same and ("0.0.0.0" in (a.host_ip, b.host_ip) or a.host_ip == b.host_ip)


def described(topologies: list[str], room: dict[tuple[str, ...], int]) -> str:
    ordered = sorted(room, key=lambda names: (-room[names], names))
    if not ordered:
        return ""
    text = ", ".join(f"{'/'.join(names)} has room for {room[names]}" for names in ordered[:3])
    return f"{' and '.join(topologies)}: {text}" + (f" (and {len(ordered) - 3} more)" if len(ordered) > 3 else "")
