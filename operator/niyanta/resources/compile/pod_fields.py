"""Names of the Pod API's fields (Kubernetes 1.37) that the pod template passes on without looking at them.

They are in the schema by name because of a gap in Kubernetes' CEL (`unstructuredMap.Equal`): objects that keep unknown
fields compare equal when one unknown key was exchanged for another, so `command` could become `args` in a template that
must not change. A known name without a type is compared as a whole. A name that a later Kubernetes adds works without
being here; it only has that gap back, and the operator compares the whole template again.
"""

from __future__ import annotations

POD_SPEC = (
    "activeDeadlineSeconds",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "evictionResponders",
    "hostAliases",
    "hostIPC",
    "hostPID",
    "hostUsers",
    "hostname",
    "hostnameOverride",
    "imagePullSecrets",
    "os",
    "preemptionPolicy",
    "priority",
    "readinessGates",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
)
CONTAINER = (
    "args",
    "command",
    "env",
    "envFrom",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "resizePolicy",
    "restartPolicyRules",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
)
VOLUME = (
    "azureFile",
    "cephfs",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "nfs",
    "photonPersistentDisk",
    "projected",
    "quobyte",
    "scaleIO",
    "secret",
    "storageos",
)
PORT = ("name",)
RESOURCES = ("claims",)
