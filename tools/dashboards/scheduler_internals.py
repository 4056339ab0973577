"""Panels of the dashboard of the scheduler's internals, for troubleshooting."""

from __future__ import annotations

from tools.dashboards.expressions import NS, RATE, highest, percentiles, quantile, rate
from tools.dashboards.generate import Dashboard, Row, panel

PROCESS = f"on (namespace, instance) group_left () niyanta_build_info{{{NS}}}"
FAILED = f'{NS},code=~"0|5.."'

LEADERSHIP = Row(
    "Leadership and cycles",
    (
        panel(
            "Leader",
            "1: the process is the leader. At any time there should be exactly one.",
            (f"max by (instance) (niyanta_leader{{{NS}}})", "{{instance}}"),
            most=1,
        ),
        panel(
            "Epoch",
            "Increases with each change of leader.",
            (highest("niyanta_leader_epoch"), "epoch"),
        ),
        panel(
            "Cycles",
            "Cycles per second.",
            (rate("niyanta_cycles_total"), "cycles"),
            unit="ops",
        ),
        panel("Cycle time", "Duration of a cycle.", *percentiles("niyanta_cycle_seconds"), unit="s"),
        panel(
            "Engine time",
            "Duration of the engine's computation in a cycle.",
            *percentiles("niyanta_cycle_engine_seconds"),
            unit="s",
        ),
        panel(
            "Leader's time by phase",
            "Seconds per second spent in each phase of the loop.",
            (rate("niyanta_cycle_phase_seconds_sum", NS, "phase"), "{{phase}}"),
            unit="percentunit",
            stack=True,
        ),
        panel(
            "Event loop stalls, p99",
            "Delay of timers. Beyond 3 s a leader stops renewing its lease.",
            (quantile(0.99, "niyanta_loop_stall_seconds", NS, "instance"), "{{instance}}"),
            unit="s",
            steps=((None, "green"), (0.1, "orange"), (0.5, "red")),
        ),
        panel(
            "CPU",
            "CPU seconds used per second, by process.",
            (f"rate(process_cpu_seconds_total{{{NS}}}[{RATE}]) * {PROCESS}", "{{instance}}"),
        ),
        panel(
            "Memory",
            "Resident memory, by process.",
            (f"process_resident_memory_bytes{{{NS}}} * {PROCESS}", "{{instance}}"),
            unit="bytes",
        ),
    ),
)

DECISIONS = Row(
    "Decisions",
    (
        panel(
            "Transitions",
            "Workload transitions committed per second.",
            (rate("niyanta_transitions_total", NS, "event"), "{{event}}"),
            unit="ops",
            stack=True,
        ),
        panel(
            "Rejections",
            "Workloads that a cycle could not place, per second, by their most frequent reason. A workload counts in "
            "each cycle that tries it.",
            (rate("niyanta_rejections_total", NS, "reason") + " > 0 or vector(0)", "{{reason}}"),
            unit="ops",
            stack=True,
        ),
        panel(
            "Classes of waiting work",
            "Active classes are decided by the next cycle; parked ones wait for a change.",
            (highest("niyanta_queue_classes", NS, "state"), "{{state}}"),
            stack=True,
        ),
        panel(
            "Wakes of parked classes",
            "Classes looked at again each second, by what changed; customers put off; missed wakes (always 0).",
            (rate("niyanta_parked_wakes_total", NS, "source"), "{{source}}"),
            (rate("niyanta_engine_deferred_total"), "deferred"),
            (rate("niyanta_wakes_missed_total"), "missed"),
            unit="ops",
        ),
        panel(
            "Anti-affinity conflicts",
            "Workloads per second that could not be placed and that anti-affinity excluded from at least one worker.",
            (rate("niyanta_anti_affinity_conflicts_total"), "conflicts"),
            unit="ops",
        ),
        panel(
            "Soft score of placements",
            "0 to 100; 50 without preferences.",
            (f"sum by (le) (increase(niyanta_placement_score_bucket{{{NS}}}[{RATE}]))", "{{le}}"),
            kind="heatmap",
        ),
        panel(
            "Soft score, median and p10",
            "Degree to which placements meet preferences.",
            (quantile(0.5, "niyanta_placement_score"), "median"),
            (quantile(0.1, "niyanta_placement_score"), "p10"),
            most=100,
        ),
    ),
)

CONTAINMENT = Row(
    "Containment",
    (
        panel(
            "Contained errors",
            "Unexpected errors per second that were contained to the object that caused them, by boundary.",
            (rate("niyanta_contained_errors_total", NS, "boundary") + " > 0 or vector(0)", "{{boundary}}"),
            unit="ops",
            stack=True,
        ),
        panel(
            "Objects out of bounds",
            "Watched objects per second that were too deep, too large or had too large integers, by outcome.",
            (rate("niyanta_objects_out_of_bounds_total", NS, "outcome") + " > 0 or vector(0)", "{{outcome}}"),
            unit="ops",
        ),
        panel(
            "Missing policies",
            "Required admission policies that are missing or switched off.",
            (highest("niyanta_missing_policies"), "policies"),
            steps=((None, "green"), (1.0, "red")),
        ),
        panel(
            "Held by missing objects",
            "Workloads that are neither placed nor cancelled because many objects of their customer are missing.",
            (highest("niyanta_held_missing_objects", NS, "customer") + " or vector(0)", "{{customer}}"),
            steps=((None, "green"), (1.0, "red")),
        ),
        panel(
            "Open breakers",
            "Namespaces in which pods can't be created, and workers that reject all pods.",
            (highest("niyanta_open_breakers", NS, "kind"), "{{kind}}"),
            steps=((None, "green"), (1.0, "orange")),
        ),
        panel(
            "Oldest transaction",
            "Age of the oldest open transaction on the Postgres server.",
            (highest("niyanta_database_horizon_age_seconds"), "age"),
            unit="s",
            steps=((None, "green"), (600.0, "orange")),
        ),
        panel(
            "API keys that expire",
            "API keys that expire within 7 days.",
            (highest("niyanta_api_keys_expiring"), "keys"),
            steps=((None, "green"), (1.0, "orange")),
        ),
    ),
)

RECORD = Row(
    "Postgres",
    (
        panel("Commit time", "Duration of a commit of transitions.", *percentiles("niyanta_commit_seconds"), unit="s"),
        panel(
            "Commit errors",
            "Failed commits per second; each is retried.",
            (rate("niyanta_commit_errors_total", NS, "error"), "{{error}}"),
            unit="ops",
        ),
        panel(
            "Dropped transitions",
            "Rows per second left out of a commit: changed by another process, or an illegal transition.",
            (rate("niyanta_commit_dropped_total", NS, "why"), "{{why}}"),
            unit="ops",
        ),
        panel(
            "Connections",
            "Open connections, by process.",
            (
                f"sum by (instance, role, state) (niyanta_postgres_pool_connections{{{NS}}})",
                "{{instance}} {{role}} {{state}}",
            ),
        ),
        panel(
            "Waiting for a connection",
            "Requests that are waiting now, by process.",
            (f"sum by (instance) (niyanta_postgres_pool_waiting_requests{{{NS}}})", "{{instance}}"),
            steps=((None, "green"), (1.0, "orange")),
        ),
        panel(
            "Time spent waiting for a connection",
            "Seconds per second, by process.",
            (rate("niyanta_postgres_pool_wait_seconds_total", NS, "instance"), "{{instance}}"),
            unit="s",
        ),
        panel(
            "Errors",
            "Statements and connections per second that ended in an error.",
            (rate("niyanta_postgres_errors_total", NS, "error"), "{{error}}"),
            unit="ops",
        ),
        panel(
            "Replica lag",
            "Lag of each replica behind the primary; empty without replicas.",
            (highest("niyanta_postgres_replica_lag_seconds", NS, "replica"), "{{replica}}"),
            unit="s",
            steps=((None, "green"), (10.0, "red")),
        ),
        panel(
            "Reads by server",
            "Statements per second of reads that may use a replica, by the server that answered.",
            (rate("niyanta_postgres_reads_total", NS, "target"), "{{target}}"),
            unit="ops",
            stack=True,
        ),
    ),
)

KUBERNETES = Row(
    "Kubernetes",
    (
        panel(
            "Requests",
            "Requests to the API server per second.",
            (rate("niyanta_kubernetes_request_seconds_count", NS, "verb, resource"), "{{verb}} {{resource}}"),
            unit="reqps",
            stack=True,
        ),
        panel(
            "Writes, p99",
            "99 % of the writes took less than this.",
            (
                quantile(0.99, "niyanta_kubernetes_request_seconds", f'{NS},verb!~"get|list|watch"', "verb, resource"),
                "{{verb}} {{resource}}",
            ),
            unit="s",
        ),
        panel(
            "Errors",
            "Requests per second that failed (5xx) or got no response (0), and responses 429.",
            (f"{rate('niyanta_kubernetes_request_seconds_count', FAILED, 'code')} or vector(0)", "{{code}}"),
            (f"{rate('niyanta_kubernetes_throttled_total')} or vector(0)", "429"),
            unit="reqps",
        ),
        panel(
            "Waiting for a slot, p99",
            "Time that requests wait for one of the client's connections.",
            (quantile(0.99, "niyanta_kubernetes_slot_wait_seconds"), "p99"),
            unit="s",
        ),
        panel(
            "Watch events",
            "Watch events received per second.",
            (rate("niyanta_watch_events_total", NS, "resource"), "{{resource}}"),
            unit="ops",
            stack=True,
        ),
        panel(
            "Lists and restarts of watches",
            "Complete lists and restarted watches per hour.",
            (f"sum by (resource) (increase(niyanta_relists_total{{{NS}}}[1h]))", "list {{resource}}"),
            (
                f"sum by (resource, why) (increase(niyanta_watch_restarts_total{{{NS}}}[1h]))",
                "restart {{resource}}: {{why}}",
            ),
        ),
        panel(
            "Delay of statuses",
            "Time from a workload's change to its written status; statuses yield to creates of pods for up to 5 s.",
            *percentiles("niyanta_status_delay_seconds"),
            unit="s",
        ),
        panel(
            "Statuses and Events",
            "Status patches written and Events dropped, per second.",
            (rate("niyanta_status_patches_total"), "status patches"),
            (rate("niyanta_events_dropped_total"), "Events dropped"),
            unit="ops",
        ),
    ),
)

RETENTION = Row(
    "Finished work",
    (
        panel(
            "Finished objects",
            "Finished Workload objects in the cluster; the oldest beyond the limits are deleted.",
            (highest("niyanta_finished_objects"), "finished objects"),
        ),
        panel(
            "Deletions",
            "Finished objects deleted per second, by cause, and rows deleted from Postgres.",
            (rate("niyanta_finished_objects_deleted_total", NS, "cause"), "{{cause}}"),
            (rate("niyanta_finished_rows_deleted_total"), "rows"),
            unit="ops",
        ),
        panel(
            "Delay of deletions",
            "Time for which the oldest deletion of a finished object has been due.",
            (highest("niyanta_finished_object_deletion_delay_seconds"), "oldest"),
            unit="s",
        ),
    ),
)

DOOR = Row(
    "REST door and adapter",
    (
        panel(
            "REST requests",
            "Requests per second, by route.",
            (rate("niyanta_api_answers_total", NS, "method, route"), "{{method}} {{route}}"),
            unit="reqps",
        ),
        panel(
            "REST latency, p99",
            "99 % of the requests took less than this.",
            (quantile(0.99, "niyanta_api_request_seconds", NS, "method, route"), "{{method}} {{route}}"),
            unit="s",
        ),
        panel(
            "REST requests in flight",
            "Requests in flight, by process.",
            (f"sum by (instance) (niyanta_api_requests_in_hand{{{NS}}})", "{{instance}}"),
        ),
        panel(
            "REST connections",
            "Open connections, by process.",
            (f"sum by (instance) (niyanta_api_connections{{{NS}}})", "{{instance}}"),
        ),
        panel(
            "Limited REST requests",
            "Requests and connections per second that a limit of the REST door refused or closed.",
            (rate("niyanta_api_limited_total", NS, "limit") + " > 0 or vector(0)", "{{limit}}"),
            unit="reqps",
        ),
        panel(
            "Memory of submissions",
            "Bytes of the submissions in flight, by process.",
            (f"sum by (instance) (niyanta_api_submission_bytes{{{NS}}})", "{{instance}}"),
            unit="bytes",
        ),
        panel(
            "Adapter latency",
            "Response time of the custom metrics adapter.",
            *percentiles("niyanta_adapter_request_seconds"),
            unit="s",
        ),
    ),
)

INTERNALS = Dashboard(
    "scheduler",
    "Niyanta / Scheduler internals",
    "The leader's loop and decisions, Postgres, the Kubernetes API server, the REST door and the metrics adapter.",
    (LEADERSHIP, DECISIONS, CONTAINMENT, RECORD, KUBERNETES, RETENTION, DOOR),
)
