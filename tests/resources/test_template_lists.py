"""What the templates of a Customer may use: every field that refers to something, and the matching of tolerations."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from niyanta.engine.types import Toleration
from niyanta.lifecycle import Door
from niyanta.resources.models.base import InvalidManifestError, parse
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.pod_template import PodTemplate
from niyanta.resources.ownership import HeldReason
from niyanta.resources.template_lists import covers, from_record, to_record, unlisted, uses, violation

pytestmark = pytest.mark.unit


def customer(**spec: Any) -> Customer:
    return parse(Customer, {"metadata": {"name": "acme"}, "spec": {"csiDrivers": ["listed"], **spec}})


def template(*, container: Any = None, init: Any = None, **pod: Any) -> PodTemplate:
    main = {"name": "c", "image": "x", **(container or {})}
    before = {"name": "i", "image": "x", **(init or {})}
    return parse(PodTemplate, {"spec": {"containers": [main], "initContainers": [before], **pod}})


def projected(source: dict[str, Any]) -> dict[str, Any]:
    return {"volumes": [{"name": "u"}, {"name": "v", "projected": {"sources": [{"downwardAPI": {}}, source]}}]}


def csi(**fields: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "v", "csi": {"driver": "listed", **fields}}]}


REQUIRED: dict[str, dict[str, Any]] = {
    "cephfs": {"monitors": ["m"]},
    "flexVolume": {"driver": "d"},
    "scaleIO": {"gateway": "g", "system": "s"},
    "storageos": {},
}
"""Volume source -> fields that the Pod API requires."""


REFERENCES: list[tuple[str, dict[str, Any], str, str]] = [
    ("account", {"serviceAccountName": "x"}, "serviceAccounts", "serviceAccountName"),
    ("old account field", {"serviceAccount": "x"}, "serviceAccounts", "serviceAccount"),
    ("pull secret", {"imagePullSecrets": [{"name": "x"}]}, "secrets", "imagePullSecrets[0].name"),
    ("volume", {"volumes": [{"name": "v", "secret": {"secretName": "x"}}]}, "secrets", "volumes[0].secret.secretName"),
    ("projected", projected({"secret": {"name": "x"}}), "secrets", "volumes[1].projected.sources[1].secret.name"),
    ("csi secret", csi(nodePublishSecretRef={"name": "x"}), "secrets", "volumes[0].csi.nodePublishSecretRef.name"),
    (
        "secret provider class",
        csi(volumeAttributes={"secretProviderClass": "x"}),
        "secrets",
        "volumes[0].csi.volumeAttributes.secretProviderClass",
    ),
    (
        "azure file",
        {"volumes": [{"name": "v", "azureFile": {"secretName": "x", "shareName": "s"}}]},
        "secrets",
        "azureFile.secretName",
    ),
    *(
        (
            kind,
            {"volumes": [{"name": "v", kind: {**required, "secretRef": {"name": "x"}}}]},
            "secrets",
            f"{kind}.secretRef.name",
        )
        for kind, required in REQUIRED.items()
    ),
    *(
        (
            f"{kind} of {group}",
            {group: {"env": [{"name": "A"}, {"name": "B", "valueFrom": {f"{kind}KeyRef": {"name": "x", "key": "k"}}}]}},
            f"{kind}s",
            f"env[1].valueFrom.{kind}KeyRef.name",
        )
        for kind, group in itertools.product(("secret", "configMap"), ("container", "init"))
    ),
    *(
        (
            f"all of a {kind} in {group}",
            {group: {"envFrom": [{"prefix": "P_"}, {f"{kind}Ref": {"name": "x", "optional": True}}]}},
            f"{kind}s",
            f"envFrom[1].{kind}Ref.name",
        )
        for kind, group in itertools.product(("secret", "configMap"), ("container", "init"))
    ),
    ("map volume", {"volumes": [{"name": "v", "configMap": {"name": "x"}}]}, "configMaps", "volumes[0].configMap.name"),
    ("projected map", projected({"configMap": {"name": "x"}}), "configMaps", "sources[1].configMap.name"),
    ("driver", csi(driver="x"), "csiDrivers", "volumes[0].csi.driver"),
    (
        "token",
        projected({"serviceAccountToken": {"audience": "x", "path": "t"}}),
        "tokenAudiences",
        "sources[1].serviceAccountToken.audience",
    ),
]


@pytest.mark.parametrize(
    ("fields", "listed_in", "field"), [case[1:] for case in REFERENCES], ids=[case[0] for case in REFERENCES]
)
def test_a_reference_of_a_rest_submission_needs_an_entry(fields: dict[str, Any], listed_in: str, field: str) -> None:
    made = template(**fields)
    refused = violation(made, customer(), Door.REST)
    assert refused is not None
    assert refused.reason is HeldReason.TEMPLATE_NOT_ALLOWED
    assert refused.field.startswith("spec.template.spec.")
    assert refused.field.endswith(field)
    assert f"spec.{listed_in}: kubectl edit customers.niyanta.io acme" in refused.message
    assert violation(made, customer(**{listed_in: ["y"]}), Door.REST) is not None
    assert violation(made, customer(**{listed_in: ["x"]}), Door.REST) is None
    # The author of an object needs permissions of their own.
    assert violation(made, customer(), Door.KUBERNETES) is None


FIELD = {"fieldRef": {"fieldPath": "metadata.name"}}
CERTIFICATE = {"podCertificate": {"signerName": "x", "keyType": "ED25519"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"serviceAccountName": "default"},
        projected({"serviceAccountToken": {"path": "t"}}),
        projected({"serviceAccountToken": {"path": "t", "audience": ""}}),
        projected({"clusterTrustBundle": {"name": "b", "path": "p"}}),
        {"container": {"env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": FIELD}]}},
        {"volumes": [{"name": "v", "emptyDir": {}}]},
    ],
)
def test_what_every_pod_may_use_needs_no_entry(fields: dict[str, Any]) -> None:
    assert violation(template(**fields), customer(), Door.REST) is None


def test_sources_that_no_list_binds_are_refused() -> None:
    refused = violation(template(**projected(CERTIFICATE)), customer(), Door.REST)
    assert refused is not None
    assert refused.field.endswith("volumes[1].projected.sources[1].podCertificate")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"container": {"env": [{"name": "A", "valueFrom": {"vaultRef": {}}}]}}, "env[0].valueFrom.vaultRef"),
        ({"init": {"envFrom": [{"vaultRef": {}}]}}, "initContainers[0].envFrom[0].vaultRef"),
        ({"volumes": [{"name": "v", "secret": {"secretName": ["x"]}}]}, "volumes[0].secret.secretName"),
    ],
)
def test_sources_that_the_pod_api_does_not_have_are_errors(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidManifestError) as refusal:
        template(**fields)
    assert refusal.value.field.endswith(field)


@pytest.mark.parametrize("door", list(Door))
@pytest.mark.parametrize(
    ("fields", "lists", "field"),
    [
        ({"priorityClassName": "urgent"}, {"priorityClasses": ["urgent"]}, "priorityClassName"),
        ({"runtimeClassName": "gvisor"}, {"runtimeClasses": ["gvisor"]}, "runtimeClassName"),
        (
            {"tolerations": [{"key": "gpu", "operator": "Exists"}, {"key": "spot", "value": "yes"}]},
            {"tolerations": [{"key": "gpu", "operator": "Exists"}, {"key": "spot", "operator": "Exists"}]},
            "tolerations[0]",
        ),
    ],
)
def test_tolerations_and_classes_bind_both_doors(
    fields: dict[str, Any], lists: dict[str, Any], field: str, door: Door
) -> None:
    made = template(**fields)
    refused = violation(made, customer(), door)
    assert refused is not None
    assert refused.field == f"spec.template.spec.{field}"
    assert violation(made, customer(**lists), door) is None


ANY = Toleration(exists=True)


@pytest.mark.parametrize(
    ("entry", "wanted", "covered"),
    [
        # An entry for a key, with any value and effect.
        (Toleration("k", True), Toleration("k", True), True),
        (Toleration("k", True), Toleration("k", False, "v"), True),
        (Toleration("k", True), Toleration("k", False, "v", "NoExecute"), True),
        (Toleration("k", True), Toleration("other", True), False),
        (Toleration("k", True), ANY, False),
        # For one value.
        (Toleration("k", False, "v"), Toleration("k", False, "v", "NoSchedule"), True),
        (Toleration("k", False, "v"), Toleration("k", False, "w"), False),
        (Toleration("k", False, "v"), Toleration("k", True), False),
        (Toleration("k", False, ""), Toleration("k", False, ""), True),
        (Toleration("k", False, ""), Toleration("k", False, "v"), False),
        # For one effect.
        (Toleration("k", True, "", "NoSchedule"), Toleration("k", True, "", "NoSchedule"), True),
        (Toleration("k", True, "", "NoSchedule"), Toleration("k", True, "", "NoExecute"), False),
        (Toleration("k", True, "", "NoSchedule"), Toleration("k", True), False),
        # For every taint.
        (ANY, ANY, True),
        (ANY, Toleration("k", False, "v", "NoExecute"), True),
        (Toleration("", True, "", "NoSchedule"), Toleration("k", True, "", "NoSchedule"), True),
        (Toleration("", True, "", "NoSchedule"), ANY, False),
    ],
)
def test_an_entry_covers_tolerations_of_no_other_taints(entry: Toleration, wanted: Toleration, covered: bool) -> None:
    assert covers(entry, wanted) is covered


def test_covering_means_that_each_tolerated_taint_is_tolerated() -> None:
    """Against Kubernetes' own rule of a taint and a toleration, for all small cases."""

    def tolerates(toleration: Toleration, key: str, value: str, effect: str) -> bool:
        if toleration.effect not in ("", effect) or toleration.key not in ("", key):
            return False
        return toleration.exists or toleration.value == value

    effects = ("NoSchedule", "NoExecute")
    taints = list(itertools.product(("a", "b"), ("", "v", "w"), effects))
    all_of = [
        *(
            Toleration(key, False, value, effect)
            for key, value, effect in itertools.product("ab", "vw", ("", *effects))
        ),
        *(Toleration(key, True, "", effect) for key, effect in itertools.product(("", "a", "b"), ("", *effects))),
    ]
    for entry, wanted in itertools.product(all_of, repeat=2):
        covered = all(tolerates(entry, *taint) for taint in taints if tolerates(wanted, *taint))
        assert covers(entry, wanted) or not covered or (wanted.effect == "" and entry.effect), (entry, wanted)
        assert covered or not covers(entry, wanted), (entry, wanted)


def test_the_message_shows_the_toleration_and_nobody_elses_lists() -> None:
    made = template(tolerations=[{"key": "gpu", "value": "a", "effect": "NoSchedule"}, {"operator": "Exists"}])
    found = unlisted(uses(made, Door.KUBERNETES), customer(tolerations=[{"key": "hidden", "operator": "Exists"}]))
    assert [item.message.split(" is ")[0] for item in found] == [
        "toleration gpu=a:NoSchedule",
        "toleration of every taint",
    ]
    assert not any("hidden" in item.message for item in found)


def test_the_lists_survive_the_projection() -> None:
    lists = {
        "topologyKeys": ["example.com/rack"],
        "tolerations": [{"key": "gpu", "operator": "Exists", "value": "", "effect": ""}],
        "priorityClasses": ["urgent"],
        "runtimeClasses": ["gvisor"],
        "configMaps": ["settings"],
        "csiDrivers": ["secrets-store.csi.k8s.io"],
        "tokenAudiences": ["vault"],
    }
    record = to_record(customer(**lists, namespaces=["a"], secrets=["s"]))
    assert record == lists
    assert from_record({**record, "addedLater": ["x"], "namespaces": ["*"]}) == lists
    assert to_record(customer(csiDrivers=[])) == {}
