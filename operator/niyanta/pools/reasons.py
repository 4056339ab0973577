"""Types and reasons of a WorkerPool's conditions, and reasons for which drains are cancelled. Values are what users
read."""

from __future__ import annotations

import enum


class ConditionType(enum.StrEnum):
    """Types of a WorkerPool's conditions."""

    OVERLAPPING = "Overlapping"
    READY = "Ready"
    SCALING = "Scaling"
    SCALING_LIMITED = "ScalingLimited"


class ConditionReason(enum.StrEnum):
    """Reasons of conditions, beside those of the policy (`ScalingReason`) and of providers (`ProviderReason`)."""

    ALL_NODES_OF_OLDER_POOLS = "AllNodesOfOlderPools"
    GROUP_SHARED = "GroupShared"
    INTERNAL_ERROR = "InternalError"
    NODES_OF_OLDER_POOL = "NodesOfOlderPool"
    NO_NODE_SELECTED = "NoNodeSelected"
    NO_OVERLAP = "NoOverlap"
    NO_PROVIDER = "NoProvider"
    NO_WORKERS_WANTED = "NoWorkersWanted"
    NO_WORKER_READY = "NoWorkerReady"
    SCALING_DISABLED = "ScalingDisabled"
    TOO_FEW_REPLICAS = "TooFewReplicas"
    TOO_MANY_REPLICAS = "TooManyReplicas"
    WITHIN_LIMITS = "WithinLimits"
    WORKERS_READY = "WorkersReady"


class CancelReason(enum.StrEnum):
    """Reasons for which a drain is cancelled."""

    WANTED = "Wanted"
    UNCORDONED = "Uncordoned"
    KEPT = "Kept"
    USED_BY_OTHERS = "UsedByOthers"
    POOL_GONE = "PoolGone"
