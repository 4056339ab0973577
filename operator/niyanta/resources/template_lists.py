"""Lists of a Customer that bind its pod templates: tolerations, classes, and objects that a template refers to.

Tolerations, PriorityClasses and RuntimeClasses bind workloads of both doors: they reach into the cluster. The other
lists bind REST submissions only, whose pods the operator creates; the author of a Workload object needs permissions of
their own in the namespace.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.alias_generators import to_camel

from niyanta.engine.types import Toleration
from niyanta.lifecycle import Door
from niyanta.plain_text import plain
from niyanta.resources.models.customer import Customer, CustomerSpec
from niyanta.resources.models.pod_template import PodTemplate, Tolerated
from niyanta.resources.ownership import Held, HeldReason
from niyanta.resources.template_fields import POD, Manifest, Violation, as_map, walk


class TemplateList(enum.Enum):
    """A list of a Customer; the value is its field."""

    TOLERATIONS = "tolerations"
    PRIORITY_CLASSES = "priorityClasses"
    RUNTIME_CLASSES = "runtimeClasses"
    SERVICE_ACCOUNTS = "serviceAccounts"
    SECRETS = "secrets"
    CONFIG_MAPS = "configMaps"
    CSI_DRIVERS = "csiDrivers"
    TOKEN_AUDIENCES = "tokenAudiences"  # noqa: S105 - a field's name


_NOUNS: Mapping[TemplateList, str] = {
    TemplateList.TOLERATIONS: "toleration",
    TemplateList.PRIORITY_CLASSES: "PriorityClass",
    TemplateList.RUNTIME_CLASSES: "RuntimeClass",
    TemplateList.SERVICE_ACCOUNTS: "ServiceAccount",
    TemplateList.SECRETS: "Secret",
    TemplateList.CONFIG_MAPS: "ConfigMap",
    TemplateList.CSI_DRIVERS: "CSI driver",
    TemplateList.TOKEN_AUDIENCES: "token audience",
}


@dataclass(frozen=True, slots=True)
class TemplateUse:
    """A field of a template that needs an entry in `list`; None: REST submissions may not use the field at all."""

    field: str
    list: TemplateList | None
    value: str | Toleration


_SOURCES = "volumes[].projected.sources[]"
_REFERENCES: tuple[tuple[TemplateList, tuple[str, ...]], ...] = (
    (TemplateList.SERVICE_ACCOUNTS, ("serviceAccountName", "serviceAccount")),
    (
        TemplateList.SECRETS,
        (
            "imagePullSecrets[].name",
            "*.env[].valueFrom.secretKeyRef.name",
            "*.envFrom[].secretRef.name",
            "volumes[].secret.secretName",
            f"{_SOURCES}.secret.name",
            "volumes[].csi.nodePublishSecretRef.name",
            # The object of the Secrets Store driver that names the secrets of a volume.
            "volumes[].csi.volumeAttributes.secretProviderClass",
            "volumes[].azureFile.secretName",
            *(
                f"volumes[].{kind}.secretRef.name"
                for kind in ("cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos")
            ),
        ),
    ),
    (
        TemplateList.CONFIG_MAPS,
        (
            "*.env[].valueFrom.configMapKeyRef.name",
            "*.envFrom[].configMapRef.name",
            "volumes[].configMap.name",
            f"{_SOURCES}.configMap.name",
        ),
    ),
    (TemplateList.CSI_DRIVERS, ("volumes[].csi.driver",)),
    (TemplateList.TOKEN_AUDIENCES, (f"{_SOURCES}.serviceAccountToken.audience",)),
)
"""Every field of the Pod API (Kubernetes 1.37) that names an object of the namespace, a driver or an audience."""

_FREE: Mapping[TemplateList, Collection[str]] = {
    TemplateList.SERVICE_ACCOUNTS: ("", "default"),
    # The API server's own audience: every pod gets such a token unless it declines.
    TemplateList.TOKEN_AUDIENCES: ("",),
}
"""Values that need no entry."""

_KNOWN_SOURCES: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "*.env[].valueFrom",
        frozenset({"configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef"}),
    ),
    ("*.envFrom[]", frozenset({"configMapRef", "prefix", "secretRef"})),
    (_SOURCES, frozenset({"clusterTrustBundle", "configMap", "downwardAPI", "secret", "serviceAccountToken"})),
)
"""Kinds of sources that are harmless or bound by a list. Any other (podCertificate, and what a later Kubernetes adds)
is refused, because it may carry a credential."""


def uses(template: PodTemplate, door: Door) -> tuple[TemplateUse, ...]:
    """Everything in a template that the lists bind at `door`; most templates have nothing of it."""
    pod = template.spec
    found = [
        TemplateUse(f"{POD}.tolerations[{index}]", TemplateList.TOLERATIONS, _toleration(item))
        for index, item in enumerate(pod.tolerations)
    ]
    if pod.priority_class_name:
        field = f"{POD}.priorityClassName"
        found.append(TemplateUse(field, TemplateList.PRIORITY_CLASSES, pod.priority_class_name))
    if pod.runtime_class_name:
        found.append(TemplateUse(f"{POD}.runtimeClassName", TemplateList.RUNTIME_CLASSES, pod.runtime_class_name))
    if door is Door.REST:
        found += _references(as_map(template.manifest().get("spec")))
    return tuple(found)


def _references(pod: Manifest) -> Iterator[TemplateUse]:
    """Uses in fields that the models pass on. A name that isn't a string is converted to one."""
    for kind, patterns in _REFERENCES:
        free = _FREE.get(kind, ())
        for pattern in patterns:
            for path, value in walk(pod, pattern):
                if value is not None and str(value) not in free:
                    yield TemplateUse(f"{POD}.{path}", kind, str(value))
    for pattern, known in _KNOWN_SOURCES:
        for path, value in walk(pod, pattern):
            for name in sorted(as_map(value).keys() - known):
                yield TemplateUse(f"{POD}.{path}.{plain(name, 64)}", None, "")


def unlisted(found: Iterable[TemplateUse], customer: Customer) -> list[Violation]:
    """Violations for the uses that have no entry in the customer's lists."""
    return [Violation(use.field, _message(use, customer)) for use in found if not _listed(use, customer.spec)]


def violation(template: PodTemplate, customer: Customer, door: Door) -> Held | None:
    """Held for the first use in `template` that has no entry in the customer's lists."""
    for item in unlisted(uses(template, door), customer):
        return Held(HeldReason.TEMPLATE_NOT_ALLOWED, f"{item.field}: {item.message}", item.field)
    return None


def _listed(use: TemplateUse, spec: CustomerSpec) -> bool:
    if isinstance(use.value, Toleration):
        return any(covers(_toleration(entry), use.value) for entry in spec.tolerations)
    names: Mapping[TemplateList, Collection[str]] = {
        TemplateList.PRIORITY_CLASSES: spec.priority_classes,
        TemplateList.RUNTIME_CLASSES: spec.runtime_classes,
        TemplateList.SERVICE_ACCOUNTS: spec.service_accounts,
        TemplateList.SECRETS: spec.secrets,
        TemplateList.CONFIG_MAPS: spec.config_maps,
        TemplateList.CSI_DRIVERS: spec.csi_drivers,
        TemplateList.TOKEN_AUDIENCES: spec.token_audiences,
    }
    return use.list is not None and use.value in names[use.list]


def covers(entry: Toleration, wanted: Toleration) -> bool:
    """True when `entry` tolerates every taint that `wanted` tolerates. An empty key stands for every key (and needs
    Exists), an empty effect for every effect."""
    if entry.effect and entry.effect != wanted.effect:
        return False
    if entry.key and entry.key != wanted.key:
        return False
    if entry.exists:
        return True
    return bool(wanted.key) and not wanted.exists and entry.value == wanted.value


def _toleration(item: Tolerated) -> Toleration:
    return Toleration(item.key, item.operator == "Exists", item.value, item.effect)


def _message(use: TemplateUse, customer: Customer) -> str:
    if use.list is None:
        return "REST submissions may not use this source"
    name = customer.metadata.name
    value = _text(use.value) if isinstance(use.value, Toleration) else plain(use.value, 253)
    return (
        f"{_NOUNS[use.list]} {value} is not listed by the Customer; an administrator adds it to spec.{use.list.value}: "
        f"kubectl edit customers.niyanta.io {name}"
    )


def _text(toleration: Toleration) -> str:
    """A toleration as kubectl writes taints, `key=value:effect`."""
    found = toleration.key or "of every taint"
    if not toleration.exists:
        found += f"={toleration.value}"
    return found + (f":{toleration.effect}" if toleration.effect else "")


_RECORDED = (
    *("topology_keys", "tolerations", "priority_classes", "runtime_classes"),
    *("config_maps", "csi_drivers", "token_audiences"),
)
"""Lists in the REST door's projection of a Customer, besides service_accounts and secrets, which have columns."""


def to_record(customer: Customer) -> dict[str, Any]:
    """The lists as JSON for the REST door's projection of the Customer; empty ones are left out."""
    found = customer.spec.model_dump(mode="json", by_alias=True, include=set(_RECORDED))
    return {name: entries for name, entries in found.items() if entries}


def from_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a Customer's spec that `to_record` wrote; lists of another release are left out."""
    known = {to_camel(name) for name in _RECORDED}
    return {name: entries for name, entries in record.items() if name in known}
