"""Reasons that the scheduler writes to rows and Events. Ownership, the engine and refused writes have enums of their
own."""

from __future__ import annotations

import enum


class RowReason(enum.StrEnum):
    """`status.reason` of a workload; users read the value."""

    ADOPTED = "Adopted"
    COMPLETED = "Completed"
    CUSTOMER_BUDGET_EXCEEDED = "CustomerBudgetExceeded"
    DELETED = "Deleted"
    INTERNAL_ERROR = "InternalError"
    INVALID_SPEC = "InvalidSpec"
    NODE_LOST = "NodeLost"
    NODE_RETURNED = "NodeReturned"
    OBJECT_MISMATCH = "ObjectMismatch"
    OBJECT_MISSING = "ObjectMissing"
    OBJECT_RETURNED = "ObjectReturned"
    PLACED = "Placed"
    POD_DISRUPTED = "PodDisrupted"
    POD_FAILED = "PodFailed"
    POD_LOST = "PodLost"
    REJECTED_BY_KUBELET = "RejectedByKubelet"
    RELEASED = "Released"
    RESUMED = "Resumed"
    START_TIMEOUT = "StartTimeout"
    STARTED = "Started"
    SUSPENDED = "Suspended"
    TIMEOUT = "Timeout"
    UNSCHEDULABLE = "Unschedulable"
    WAITING_FOR_NODE_FENCE = "WaitingForNodeFence"
    WORKER_CHANGED = "WorkerChanged"
    WORKER_DRAINED = "WorkerDrained"


class EventReason(enum.StrEnum):
    """Reasons of Kubernetes Events on Workloads."""

    FAILED = "Failed"
    HELD = "Held"
    RETRYING = "Retrying"
    SCHEDULED = "Scheduled"
