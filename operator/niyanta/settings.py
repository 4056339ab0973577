"""One typed settings object; every field is an environment variable NIYANTA_<NAME> (`niyanta settings` lists them)."""

from __future__ import annotations

import os
import socket
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of every `niyanta` process. Durations are seconds."""

    model_config = SettingsConfigDict(env_prefix="NIYANTA_", extra="ignore")

    dsn: str = Field("", description="Postgres connection string; required unless embedded_postgres is set")
    api_dsn: str = Field(
        "", description="Connection string of the REST door, for a role of its own; empty: that of dsn"
    )
    migrate_dsn: str = Field(
        "", description="Connection string of the migrations, whose role owns the tables; empty: that of dsn"
    )
    door_role: str = Field(
        "", description="Role of the REST door, to which `niyanta migrate` grants its rights; empty: grants nothing"
    )
    operator_role: str = Field(
        "", description="Role of the operator, to which `niyanta migrate` grants its rights; empty: grants nothing"
    )
    embedded_postgres: str = Field(
        "", description="Folder of an embedded Postgres to start and use instead of a DSN (demo and tests only)"
    )
    replica_dsns: str = Field(
        "",
        description="Connection strings of streaming replicas that the REST door may read from, one per line (URLs may "
        "also be separated by spaces); empty: all reads go to the primary",
    )
    max_replica_lag: float = Field(
        10.0,
        gt=0,
        description="Maximum age of a replica's data for reads; at least twice replica_check_interval",
    )
    replica_check_interval: float = Field(2.0, gt=0, description="Interval between checks of the replicas")
    kubeconfig: str = Field("", description="Path of a kubeconfig; empty: in-cluster configuration")
    namespace: str = Field("niyanta-system", description="Namespace of the operator, its WorkerPools and the fence")
    identity: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}", description="Name of this leadership candidate"
    )
    service_account: str = Field(
        "niyanta-operator", description="ServiceAccount that the fence policy allows to create pods"
    )
    metrics_port: int = Field(9090, ge=0, le=65535, description="Port of /metrics, /healthz and /readyz")
    metrics_host: str = Field("0.0.0.0", description="Address that this port listens on")  # noqa: S104
    metrics_adapter: bool = Field(
        default=False, description="Serve custom.metrics.k8s.io to the API server, for HorizontalPodAutoscalers"
    )
    metrics_adapter_host: str = Field("0.0.0.0", description="Address the metrics adapter listens on")  # noqa: S104
    metrics_adapter_port: int = Field(6443, ge=0, le=65535, description="Port of the metrics adapter (TLS)")
    metrics_adapter_service: str = Field(
        "niyanta-metrics-adapter",
        description="Service of the metrics adapter; its certificate is in the Secret of that name plus -tls",
    )
    metrics_adapter_certificate_lifetime: float = Field(
        7_776_000.0,
        ge=30,
        description="Lifetime of the metrics adapter's certificate, which is replaced after two thirds of it",
    )
    customer_memory_budget: int = Field(
        256 * 1024 * 1024,
        ge=1024 * 1024,
        description="Most bytes of the leader's memory for a customer's workloads in one namespace; a customer has "
        "1.5 times as much, and all customers have twice as much. Further waiting workloads are held",
    )
    metrics_max_customers: int = Field(
        100, ge=1, le=10_000, description="Maximum customers with separate metrics; further ones are counted as `other`"
    )
    metrics_max_pools: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Maximum WorkerPools with separate metrics; further ones are counted as `other`",
    )
    metrics_token_file: str = Field(
        "",
        description="File with a token that /metrics requires as `Authorization: Bearer`; empty: no authentication",
    )
    log_format: Literal["json", "console"] = Field("json", description="json in the cluster, console on a terminal")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe level logged")
    require_policies: bool = Field(
        default=True,
        description="Take leadership only if the admission policies of the chart are in the cluster and deny",
    )
    require_authors_policy: bool = Field(
        default=False,
        description="Count the policy niyanta-authors among the missing ones too; leadership doesn't depend on it",
    )
    default_customer: bool = Field(
        default=False, description="Create the Customer `default` (Standard, every tenant namespace) when it is missing"
    )
    topology_keys: str = Field(
        "",
        description="Topology keys, separated by commas, that anti and near terms of every Customer may use besides "
        "hostname, zone and region; other keys are listed by Customer",
    )
    require_namespace_label: bool = Field(
        default=True, description="Run workloads only in namespaces with the label niyanta.io/enabled=true"
    )

    db_pool_min: int = Field(5, ge=1, description="Minimum connections of the Postgres pool")
    db_pool_max: int = Field(
        20, ge=2, description="Maximum connections of the Postgres pool (100+ for production API servers)"
    )
    db_transaction_pooler: bool = Field(
        default=False,
        description="Set when connections go through a pooler in transaction mode (PgBouncer): sessions then have no "
        "prepared statements or settings, so the role needs the settings (docs/postgres.md)",
    )
    statement_timeout: float = Field(5.0, gt=0, description="Maximum duration of a statement")

    api_host: str = Field("0.0.0.0", description="Address the REST door listens on")  # noqa: S104
    api_port: int = Field(8080, ge=0, le=65535, description="Port of the REST door")
    api_tls_cert: str = Field("", description="Certificate chain (PEM file) of the REST door; empty: no TLS")
    api_tls_key: str = Field("", description="Private key (PEM file) of that certificate")
    api_pool_max: int = Field(20, ge=2, description="Maximum connections of an API process to Postgres")
    api_max_inflight: int = Field(
        512, ge=1, description="Maximum requests in flight in an API process; further ones get 503"
    )
    api_max_inflight_per_customer: int = Field(
        64,
        ge=1,
        description="Maximum requests in flight of one customer in an API process, and never more than are still free; "
        "further ones get 429",
    )
    api_max_inflight_bytes: int = Field(
        128 * 1024 * 1024,
        ge=64 * 1024 * 1024,
        description="Maximum memory of the submissions in flight in an API process, in bytes, as estimated from their "
        "bodies",
    )
    api_max_inflight_bytes_per_customer: int = Field(
        32 * 1024 * 1024,
        ge=32 * 1024 * 1024,
        description="The same for the submissions of one customer; further ones wait, then get 429",
    )
    api_body_timeout: float = Field(
        30.0, gt=0, description="Maximum time that the REST door waits for the bytes of one request body"
    )
    api_min_body_rate: int = Field(
        1024, ge=1, description="Minimum bytes per second of a request body, after its first five seconds"
    )
    api_header_timeout: float = Field(
        10.0, gt=0, description="Maximum time for a TLS handshake, and for the header of a request"
    )
    api_keep_alive: float = Field(65.0, gt=0, description="Time for which an idle connection is kept open")
    api_max_connections: int = Field(
        2048, ge=1, description="Maximum connections of an API process; beyond it, the one idle for longest is closed"
    )
    api_max_connections_per_peer: int = Field(
        1024, ge=1, description="Maximum connections from one address (a load balancer may be one)"
    )
    max_queue_depth: int = Field(
        1_000_000,
        ge=0,
        description="Maximum waiting workloads of all customers. Each customer may have half of what the others leave "
        "free before the REST door answers 503 (counts are up to 100 ms old), and half of all before its further "
        "Workload objects are held (QueueFull)",
    )

    lease: float = Field(4.0, gt=1, description="Duration of leadership without a renewal")
    renew_every: float = Field(1.0, gt=0, description="Interval between renewals by the leader")
    loop_stall_limit: float = Field(
        3.0, gt=0, description="Maximum time between ticks of the leader's loop; beyond it, leadership is not renewed"
    )
    request_timeout: float = Field(3.0, gt=0, description="Timeout of a hot write to the API server")
    connections: int = Field(48, ge=1, le=256, description="Connections for hot writes to the API server")

    cycle_interval: float = Field(
        0.05, ge=0, description="Minimum time between the starts of two cycles (batching window)"
    )
    max_cycle_seconds: float = Field(1.0, gt=0, description="Maximum time of the engine in one cycle")
    keep_gpu_workers_free: bool = Field(
        default=True, description="Workloads without GPU use GPU workers only when no other worker fits"
    )
    enable_priority: bool = Field(
        default=True, description="Order by priority x tier weight; FIFO when enable_aging is off too"
    )
    enable_aging: bool = Field(default=True, description="Waiting raises the effective priority")
    aging_boost_per_minute: int = Field(5, ge=0, description="Effective priority gained by a minute of waiting")
    enable_expedited_lane: bool = Field(
        default=True, description="Give long-waiting workloads a share of freed capacity"
    )
    max_queue_wait: float = Field(
        1800.0, gt=0, description="Target for the longest wait; workloads enter the expedited lane after 0.8 of it"
    )
    expedited_share: float = Field(
        0.25, gt=0, le=1, description="Share of the capacity freed in the last ten minutes that the lane may take"
    )
    tier_weight_free: int = Field(1, ge=1, description="Weight of tier Free")
    tier_weight_standard: int = Field(10, ge=1, description="Weight of tier Standard")
    tier_weight_premium: int = Field(50, ge=1, description="Weight of tier Premium")
    tier_weight_enterprise: int = Field(100, ge=1, description="Weight of tier Enterprise")

    retry_backoff: float = Field(2.0, ge=0, description="Wait before the first retry; doubles with each retry")
    retry_backoff_max: float = Field(300.0, gt=0, description="Maximum wait before a retry")
    kubelet_rejection_exclusion: float = Field(
        60.0, gt=0, description="Time in which a worker is avoided after its kubelet rejected a pod"
    )
    kubelet_rejections_max: int = Field(
        10, ge=0, description="Rejections by kubelets before an attempt counts as failed"
    )
    node_loss_grace: float = Field(
        60.0, ge=0, description="nodeLossPolicy Replace: a node NotReady for this long is lost"
    )
    orphan_stop_ratio: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Share of a customer's objects missing at once beyond which its workloads are held, not cancelled",
    )
    rest_object_ttl_seconds: int = Field(
        3600,
        ge=0,
        le=31_536_000,
        description="Time until the object of a finished REST submission is deleted, unless its "
        "ttlSecondsAfterFinished says otherwise; objects that users made have no time to live unless they set one",
    )
    finished_objects_per_namespace: int = Field(
        1_000, ge=1, le=1_000_000, description="Finished Workload objects kept in a namespace; the oldest are deleted"
    )
    finished_objects: int = Field(
        20_000,
        ge=1,
        le=1_000_000,
        description="Finished Workload objects kept in all; the customer with most of them loses its oldest",
    )
    finished_object_deletions_per_second: float = Field(
        50.0, gt=0, description="Maximum rate at which finished Workload objects are deleted"
    )
    finished_row_retention_days: int = Field(
        30,
        ge=1,
        le=36_500,
        description="Days after its end until a workload's row is deleted from Postgres; one whose object still exists "
        "stays. Its events are kept for 30 days at most",
    )
    status_debounce: float = Field(
        1.0, ge=0, description="Minimum wait before a non-final status is written (coalesces transitions)"
    )
    customer_status_interval: float = Field(
        30.0, gt=0, description="Minimum time between two status writes of a Customer"
    )
    pool_status_interval: float = Field(5.0, gt=0, description="Minimum time between two status writes of a WorkerPool")
    enable_scaling: bool = Field(default=True, description="Add and remove workers of WorkerPools that have a provider")
    scaling_interval: float = Field(
        5.0, gt=0, description="Interval between queries of a pool's provider (changes are handled at once)"
    )
    leader_stats_interval: float = Field(
        1.0, gt=0, description="Interval between writes of the leader's statistics for the REST door"
    )
    events_per_second: float = Field(20.0, gt=0, description="Kubernetes Events beyond this rate are dropped")

    @model_validator(mode="after")
    def _replicas_can_be_fresh(self) -> Self:
        if self.max_replica_lag < 2 * self.replica_check_interval:
            msg = "max_replica_lag must be at least twice replica_check_interval, or no replica is ever fresh enough"
            raise ValueError(msg)
        return self

    @property
    def shared_topology_keys(self) -> frozenset[str]:
        """The keys of `topology_keys`."""
        return frozenset(key.strip() for key in self.topology_keys.split(",")) - {""}

    @property
    def replicas(self) -> tuple[str, ...]:
        """The connection strings in `replica_dsns`."""
        lines = [line.strip() for line in self.replica_dsns.splitlines()]
        urls = ("postgresql://", "postgres://")
        parts = [line.split() if line.startswith(urls) else [line] for line in lines if line]
        return tuple(part for line in parts for part in line)

    def tier_weight(self, tier: str) -> int:
        """Weight of a Customer's tier; `tier` is one of Free, Standard, Premium, Enterprise."""
        return int(getattr(self, f"tier_weight_{tier.lower()}"))
