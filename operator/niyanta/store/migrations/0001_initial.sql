-- Workloads: what was asked for. Written at intake and on edits only.
CREATE TABLE workloads (
    id          uuid PRIMARY KEY,
    door        text NOT NULL,
    namespace   text NOT NULL,
    name        text NOT NULL,
    customer_id text NOT NULL,
    type        text NOT NULL DEFAULT '',
    labels      jsonb NOT NULL DEFAULT '{}',
    generation  bigint NOT NULL,
    spec        jsonb NOT NULL,
    class_id    text NOT NULL,
    replicas    integer NOT NULL CHECK (replicas >= 1),
    created_at  timestamptz NOT NULL DEFAULT now()
);
-- Not unique: delete and re-apply of one name at once makes two rows with different UIDs.
CREATE INDEX workloads_name ON workloads (namespace, name);
CREATE INDEX workloads_customer ON workloads (customer_id, created_at DESC);

-- The hot part. customer_id, class_id and created_at are repeated for the partial indexes.
CREATE TABLE workload_state (
    id           uuid PRIMARY KEY REFERENCES workloads (id) ON DELETE CASCADE,
    customer_id  text NOT NULL,
    class_id     text NOT NULL,
    status       text NOT NULL CHECK (status IN
                 ('PENDING', 'HELD', 'SCHEDULED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'SUSPENDED')),
    version      bigint NOT NULL DEFAULT 1,
    priority     integer NOT NULL,
    tier_weight  integer NOT NULL,
    queue_key    bigint NOT NULL,
    queued_at    timestamptz NOT NULL,
    created_at   timestamptz NOT NULL,
    attempt      integer NOT NULL DEFAULT 0,
    failures     integer NOT NULL DEFAULT 0,
    rejections   integer NOT NULL DEFAULT 0,
    not_before   timestamptz,
    wake_at      timestamptz,
    paused_at    timestamptz,
    scheduled_at timestamptz,
    started_at   timestamptz,
    finished_at  timestamptz,
    pool         text NOT NULL DEFAULT '',
    workers      text[] NOT NULL DEFAULT '{}',
    score        real,
    reason       text NOT NULL DEFAULT '',
    message      text NOT NULL DEFAULT '',
    excluded     jsonb NOT NULL DEFAULT '{}',
    changed      xid8 NOT NULL DEFAULT pg_current_xact_id()
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
-- Listings of a customer's queue.
CREATE INDEX workload_state_listing ON workload_state (customer_id, priority DESC, created_at) WHERE status = 'PENDING';
-- Refill: the top of each class, the top of all, the oldest of all. Equal keys (aging off) go first in, first out.
CREATE INDEX workload_state_refill ON workload_state (class_id, queue_key DESC, queued_at, id)
    WHERE status = 'PENDING';
CREATE INDEX workload_state_top ON workload_state (queue_key DESC, queued_at, id) WHERE status = 'PENDING';
CREATE INDEX workload_state_oldest ON workload_state (queued_at, id) WHERE status = 'PENDING';
CREATE INDEX workload_state_wake ON workload_state (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX workload_state_active ON workload_state (id)
    WHERE status IN ('PENDING', 'HELD', 'SCHEDULED', 'RUNNING', 'SUSPENDED') OR wake_at IS NOT NULL;
CREATE INDEX workload_state_workers ON workload_state USING gin (workers) WHERE status IN ('SCHEDULED', 'RUNNING');
CREATE INDEX workload_state_changed ON workload_state (changed, id);

-- The audit. No foreign key: it outlives its workload, and checking one would cost a lookup per line.
CREATE SEQUENCE workload_events_id AS bigint CACHE 100;
CREATE TABLE workload_events (
    id          bigint NOT NULL DEFAULT nextval('workload_events_id'),
    workload_id uuid NOT NULL,
    at          timestamptz NOT NULL,
    event       text NOT NULL,
    from_phase  text,
    to_phase    text NOT NULL,
    attempt     integer NOT NULL DEFAULT 0,
    workers     text[] NOT NULL DEFAULT '{}',
    score       real,
    reason      text NOT NULL DEFAULT '',
    message     text NOT NULL DEFAULT '',
    reasons     jsonb NOT NULL DEFAULT '[]',
    epoch       bigint,
    cycle       bigint
) PARTITION BY RANGE (at);
CREATE INDEX workload_events_workload ON workload_events (workload_id, at);
-- Takes what has no day of its own yet, so that a late housekeeper never fails a commit.
CREATE TABLE workload_events_default PARTITION OF workload_events DEFAULT;

CREATE TABLE attempts (
    workload_id  uuid NOT NULL,
    attempt      integer NOT NULL,
    workers      text[] NOT NULL,
    pool         text NOT NULL DEFAULT '',
    score        real,
    epoch        bigint,
    scheduled_at timestamptz,
    started_at   timestamptz,
    finished_at  timestamptz,
    outcome      text NOT NULL DEFAULT '',
    reason       text NOT NULL DEFAULT '',
    PRIMARY KEY (workload_id, attempt)
) WITH (fillfactor = 80);

-- One row. The epoch is the key on purpose: commits take the row FOR KEY SHARE, which a renewal (not touching a key)
-- passes freely, while a take-over (a new key) waits for them.
CREATE TABLE leadership (
    epoch      bigint PRIMARY KEY,
    holder     text NOT NULL,
    expires_at timestamptz NOT NULL,
    one        boolean NOT NULL DEFAULT true CHECK (one) UNIQUE
) WITH (fillfactor = 50);
INSERT INTO leadership (epoch, holder, expires_at) VALUES (0, '', '-infinity');

CREATE TABLE customers (
    name       text PRIMARY KEY,
    tier       text NOT NULL,
    limits     jsonb NOT NULL DEFAULT '{}',
    namespaces text[] NOT NULL DEFAULT '{}',
    generation bigint NOT NULL DEFAULT 0,
    deleted    boolean NOT NULL DEFAULT false
);

CREATE TABLE workers (
    name       text PRIMARY KEY,
    pool       text NOT NULL,
    region     text NOT NULL DEFAULT '',
    zone       text NOT NULL DEFAULT '',
    gpu_model  text NOT NULL DEFAULT '',
    allocatable jsonb NOT NULL DEFAULT '{}',
    used       jsonb NOT NULL DEFAULT '{}',
    slots      integer,
    slots_used integer NOT NULL DEFAULT 0,
    ready      boolean NOT NULL,
    cordoned   boolean NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
CREATE INDEX workers_pool ON workers (pool, name);

-- How many workloads are where, kept by the transactions that move them. Finished ones are counted under class ''
-- (totals of all times), so that a class nobody uses any more leaves only zeros behind and can be pruned.
CREATE TABLE queue_counters (
    customer_id text NOT NULL,
    class_id    text NOT NULL,
    pending     bigint NOT NULL DEFAULT 0,
    held        bigint NOT NULL DEFAULT 0,
    suspended   bigint NOT NULL DEFAULT 0,
    scheduled   bigint NOT NULL DEFAULT 0,
    running     bigint NOT NULL DEFAULT 0,
    succeeded   bigint NOT NULL DEFAULT 0,
    failed      bigint NOT NULL DEFAULT 0,
    cancelled   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (customer_id, class_id)
) WITH (fillfactor = 50);

-- identity: a fence in the cluster remembers it; another one means another (restored, replaced) database.
CREATE TABLE meta (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    identity uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO meta DEFAULT VALUES;
