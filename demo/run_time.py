"""Run time of pods in the environment of `make up`: its nodes are simulated, so no container ends by itself."""

from __future__ import annotations

import yaml

from testing.cluster.api_client import JSON
from testing.cluster.cluster import Cluster, CommandError
from testing.cluster.control_plane import Kind
from testing.cluster.stages import RUN_FOR

RUN_SECONDS = 20
NAME = "niyanta-simulated-run-time"
API_VERSION = "admissionregistration.k8s.io/v1"
POINTER = "/metadata/annotations"


def policy() -> list[JSON]:
    """An admission policy that annotates the pods of Workloads with a run time where their template has none."""
    key = RUN_FOR.replace("/", "~1")
    add = f'JSONPatch{{op: "add", path: "{POINTER}/{key}", value: "{RUN_SECONDS}s"}}'
    make = f'JSONPatch{{op: "add", path: "{POINTER}", value: {{"{RUN_FOR}": "{RUN_SECONDS}s"}}}}'
    spec = {
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "Never",
        "matchConstraints": {
            "objectSelector": {"matchExpressions": [{"key": "niyanta.io/workload", "operator": "Exists"}]},
            "resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
            ],
        },
        "matchConditions": [
            {
                "name": "no-run-time",
                "expression": f'!has(object.metadata.annotations) || !("{RUN_FOR}" in object.metadata.annotations)',
            }
        ],
        "mutations": [
            {
                "patchType": "JSONPatch",
                "jsonPatch": {"expression": f"has(object.metadata.annotations) ? [{add}] : [{make}]"},
            }
        ],
    }
    metadata = {"name": NAME}
    return [
        {"apiVersion": API_VERSION, "kind": "MutatingAdmissionPolicy", "metadata": metadata, "spec": spec},
        {
            "apiVersion": API_VERSION,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": metadata,
            "spec": {"policyName": NAME},
        },
    ]


def limit_run_time(cluster: Cluster) -> int:
    """Applies the policy; returns the seconds that a pod runs, or 0 where it runs until it is stopped.

    A cluster of the user's own gets no admission policy, and Kubernetes before 1.36 does not know this kind.
    """
    if cluster.kind is Kind.EXISTING:
        return 0
    try:
        cluster.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(policy()))
    except CommandError:
        return 0
    return RUN_SECONDS
