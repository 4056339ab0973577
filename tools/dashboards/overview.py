"""Panels of the overview dashboard; `tools.dashboards.generate` converts them to JSON."""

from __future__ import annotations

from tools.dashboards.expressions import FAILED, NS, SHARE_STEPS, WAIT_STEPS, added, highest, percentiles, rate, stat
from tools.dashboards.generate import Dashboard, Row, panel

OVERVIEW = Dashboard(
    "overview",
    "Niyanta / Overview",
    "Health at a glance: leader, queue, wait times, running workloads, workers and the REST door.",
    (
        Row(
            "Now",
            (
                stat(
                    "Leader",
                    "Number of leaders; it must be 1 (runbooks NiyantaNoLeader and NiyantaSeveralLeaders).",
                    f"sum(niyanta_leader{{{NS}}}) or vector(0)",
                    steps=((None, "red"), (1.0, "green"), (2.0, "red")),
                ),
                stat("Queue depth", "Pending workloads.", highest("niyanta_queue_depth")),
                stat(
                    "Longest wait",
                    "Age of the oldest pending workload. The expedited lane aims at 30 minutes.",
                    highest("niyanta_queue_oldest_age_seconds"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                stat("Running", "Workloads running.", highest("niyanta_workloads", f'{NS},phase="Running"')),
                stat(
                    "Held",
                    "Workloads that may not be queued: over a limit, or without a Customer.",
                    highest("niyanta_workloads", f'{NS},phase="Held"'),
                    steps=((None, "green"), (1.0, "orange")),
                ),
                stat(
                    "Workers not ready",
                    "Workers whose node isn't ready, so that nothing is placed on them.",
                    added("niyanta_pool_workers", f'{NS},state="not_ready"', ""),
                    steps=((None, "green"), (1.0, "orange")),
                ),
                stat(
                    "Postgres",
                    "up: every process reaches Postgres.",
                    f"min(niyanta_postgres_up{{{NS}}})",
                    mappings=(("1", "up", "green"), ("0", "down", "red")),
                ),
                stat(
                    "REST errors",
                    "Share of the REST door's responses that are 5xx.",
                    f"({rate('niyanta_api_answers_total', FAILED)} or vector(0)) / {rate('niyanta_api_answers_total')}",
                    unit="percentunit",
                    steps=((None, "green"), (0.01, "orange"), (0.05, "red")),
                ),
            ),
        ),
        Row(
            "Queue",
            (
                panel(
                    "Queue depth by tier",
                    "Pending workloads.",
                    (highest("niyanta_tier_queue_depth", NS, "tier"), "{{tier}}"),
                    stack=True,
                ),
                panel(
                    "Longest wait by tier",
                    "Age of each tier's oldest pending workload; the dashed line is the expedited lane's target.",
                    (highest("niyanta_tier_queue_oldest_age_seconds", NS, "tier"), "{{tier}}"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                panel(
                    "Placements",
                    "Placements committed per second, by pool.",
                    (rate("niyanta_placements_total", NS, "pool"), "{{pool}}"),
                    unit="ops",
                    stack=True,
                ),
                panel(
                    "Workloads by phase",
                    "Unfinished workloads.",
                    (highest("niyanta_workloads", NS, "phase"), "{{phase}}"),
                    stack=True,
                ),
                panel(
                    "Pending workloads by reason",
                    "Workloads that the last cycle could not place, by their most frequent reason.",
                    (highest("niyanta_rejected_workloads", NS, "reason") + " > 0 or vector(0)", "{{reason}}"),
                    stack=True,
                ),
                panel(
                    "Time to placement",
                    "Time from queued to placed, of placed workloads.",
                    *percentiles("niyanta_queue_wait_seconds"),
                    unit="s",
                ),
            ),
        ),
        Row(
            "Workers and REST door",
            (
                panel(
                    "Fullest resource by pool",
                    "Share in use of each pool's fullest resource.",
                    (highest("niyanta_pool_worker_utilization_ratio", NS, "pool"), "{{pool}}"),
                    unit="percentunit",
                    most=1,
                    steps=SHARE_STEPS,
                ),
                panel(
                    "Workers",
                    "Workers of all pools: ready, cordoned, and not ready.",
                    (added("niyanta_pool_workers", NS, "state"), "{{state}}"),
                    stack=True,
                ),
                panel(
                    "REST door",
                    "Responses per second, by status.",
                    (rate("niyanta_api_answers_total", NS, "status"), "{{status}}"),
                    unit="reqps",
                    stack=True,
                ),
            ),
        ),
    ),
)
