"""Panels of the pool dashboard; `tools.dashboards.generate` converts them to JSON."""

from __future__ import annotations

from tools.dashboards.expressions import NS, POOL, POOLS, SHARE_STEPS, WAIT_STEPS, highest, rate
from tools.dashboards.generate import Dashboard, Row, panel

POOLS_PAGE = Dashboard(
    "pools",
    "Niyanta / Pools",
    "Each pool: its workers and their utilization, its queue, and the statistics for autoscalers.",
    (
        Row(
            "All pools",
            (
                panel(
                    "Pools",
                    "Workers that each pool has, uses and needs now.",
                    *(
                        highest("niyanta_pool_workers", f'{POOL},state="ready"', "pool"),
                        highest("niyanta_pool_workers_in_use", POOL, "pool"),
                        highest("niyanta_pool_workers_needed", POOL, "pool"),
                        highest("niyanta_pool_running_workloads", POOL, "pool"),
                        highest("niyanta_pool_queue_depth", POOL, "pool"),
                        highest("niyanta_pool_queue_oldest_age_seconds", POOL, "pool"),
                    ),
                    kind="table",
                    width=24,
                    height=7,
                    columns=("Ready", "In use", "Needed", "Running", "Waiting", "Longest wait (s)"),
                ),
            ),
        ),
        Row(
            "Size",
            (
                panel(
                    "Workers",
                    "Workers by state; cordoned ones still run their workloads.",
                    (highest("niyanta_pool_workers", POOL, "pool, state"), "{{pool}} {{state}}"),
                    stack=True,
                ),
                panel(
                    "Needed and ready",
                    "Workers needed to place all workloads that wait for the pool, and workers ready and in use.",
                    (highest("niyanta_pool_workers_needed", POOL, "pool"), "{{pool}} needed"),
                    (highest("niyanta_pool_workers", f'{POOL},state="ready"', "pool"), "{{pool}} ready"),
                    (highest("niyanta_pool_workers_in_use", POOL, "pool"), "{{pool}} in use"),
                ),
                panel(
                    "Demand",
                    "Running and queued slots. An autoscaler aims at this number divided by slotsPerWorker.",
                    (highest("niyanta_pool_demand_slots", POOL, "pool"), "{{pool}}"),
                ),
            ),
        ),
        Row(
            "Utilization",
            tuple(
                panel(
                    f"{title} in use",
                    f"Share in use of the {what} of each pool's workers.",
                    (
                        highest(
                            "niyanta_pool_worker_utilization_ratio", f'{POOL},resource="{resource}"', "pool, region"
                        ),
                        "{{pool}} {{region}}",
                    ),
                    unit="percentunit",
                    most=1,
                    steps=SHARE_STEPS,
                    width=6,
                )
                for title, resource, what in (
                    ("CPU", "cpu", "CPU"),
                    ("Memory", "memory", "memory"),
                    ("GPU", "gpu", "GPUs"),
                    ("Slots", "slots", "slots (pools with slotsPerWorker)"),
                )
            ),
        ),
        Row(
            "Scaling",
            (
                panel(
                    "Decisions",
                    "Recorded scaling decisions of pools with a provider, per hour.",
                    (
                        f"sum by (pool, action) (increase(niyanta_scaling_decisions_total{{{POOL}}}[1h]))",
                        "{{pool}} {{action}}",
                    ),
                ),
                panel(
                    "Draining workers",
                    "Workers chosen for removal that still run workloads.",
                    (highest("niyanta_scaling_leaving_workers", POOL, "pool"), "{{pool}}"),
                ),
                panel(
                    "Blocked",
                    "1: the pool can't be scaled; its condition Scaling has the reason.",
                    (highest("niyanta_scaling_blocked", POOL, "pool"), "{{pool}}"),
                    most=1,
                    steps=((None, "green"), (1.0, "red")),
                ),
            ),
        ),
        Row(
            "Workloads",
            (
                panel(
                    "Queue depth",
                    "Pending workloads that count for the pool; each counts for one pool.",
                    (highest("niyanta_pool_queue_depth", POOL, "pool"), "{{pool}}"),
                ),
                panel(
                    "Longest wait",
                    "Age of the oldest pending workload that counts for the pool.",
                    (highest("niyanta_pool_queue_oldest_age_seconds", POOL, "pool"), "{{pool}}"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                panel(
                    "Running",
                    "Scheduled and running workloads.",
                    (highest("niyanta_pool_running_workloads", POOL, "pool"), "{{pool}}"),
                ),
                panel(
                    "Placements",
                    "Placements committed per second.",
                    (rate("niyanta_placements_total", POOL, "pool"), "{{pool}}"),
                    unit="ops",
                ),
                panel(
                    "Age of the statistics",
                    "The leader updates the pool statistics every second; older than 5 s, they are not served.",
                    (highest("niyanta_figures_age_seconds"), "leader"),
                    (highest("niyanta_adapter_figures_age_seconds", NS, "instance"), "adapter {{instance}}"),
                    unit="s",
                    steps=((None, "green"), (5.0, "red")),
                ),
                panel(
                    "Metrics adapter requests",
                    "Responses of the custom metrics adapter per second, by status.",
                    (rate("niyanta_adapter_requests_total", NS, "about, code"), "{{about}} {{code}}"),
                    unit="reqps",
                ),
            ),
        ),
    ),
    (POOLS,),
)
