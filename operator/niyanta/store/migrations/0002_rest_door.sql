-- The REST door, limits per customer, and what the leader tells the API processes. Expands only: code of 0001 runs on it.

-- writer: epoch of the leader that wrote the row last, 0 for everybody else. reasons: typed rejections of the last note.
-- door is repeated from workloads for the partial index below.
ALTER TABLE workload_state
    ADD COLUMN door    text NOT NULL DEFAULT 'kubernetes',
    ADD COLUMN writer  bigint NOT NULL DEFAULT 0,
    ADD COLUMN reasons jsonb NOT NULL DEFAULT '[]';
UPDATE workload_state s SET door = w.door FROM workloads w WHERE w.id = s.id AND w.door <> 'kubernetes';

-- The Workload object that a REST submission became when it was dispatched.
ALTER TABLE workloads
    ADD COLUMN object_uid  text,
    ADD COLUMN object_name text;

-- What a new leader must hold in memory: everything but the waiting REST submissions.
CREATE INDEX workload_state_tracked ON workload_state (id)
    WHERE status IN ('SCHEDULED', 'RUNNING') OR wake_at IS NOT NULL
       OR (door = 'kubernetes' AND status IN ('PENDING', 'HELD', 'SUSPENDED'));
-- Held for want of room, in the order they leave again.
CREATE INDEX workload_state_full ON workload_state (customer_id, queue_key DESC, queued_at, id)
    WHERE status = 'HELD' AND reason = 'QueueFull';
-- Listings by keyset: newest first, of one customer and phase; several are merged.
CREATE INDEX workload_state_keyset ON workload_state (customer_id, status, created_at DESC, id DESC);
-- Listings of everything, for admins.
CREATE INDEX workloads_keyset ON workloads (created_at DESC, id DESC);
DROP INDEX workloads_customer;

ALTER TABLE customers
    ADD COLUMN service_accounts    text[] NOT NULL DEFAULT '{}',
    ADD COLUMN secrets             text[] NOT NULL DEFAULT '{}',
    ADD COLUMN allow_cluster_scope boolean NOT NULL DEFAULT false;

-- Names of unfinished REST submissions; a row goes in the transaction that ends its workload.
CREATE TABLE rest_names (
    customer_id text NOT NULL,
    name        text NOT NULL,
    id          uuid NOT NULL,
    PRIMARY KEY (customer_id, name)
);
CREATE INDEX rest_names_id ON rest_names (id);

-- Answers kept for 24 hours. A row without a response belongs to a transaction that is under way.
CREATE TABLE idempotency (
    customer_id text NOT NULL,
    key         text NOT NULL,
    body_hash   bytea NOT NULL,
    status      integer,
    response    jsonb,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (customer_id, key)
);
CREATE INDEX idempotency_created ON idempotency (created_at);

-- hash: SHA-256 of the whole key. Keys are 256 random bits, so nothing slower is needed to keep them from being guessed.
CREATE TABLE api_keys (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    customer_id text NOT NULL,
    role        text NOT NULL CHECK (role IN ('customer', 'admin')),
    name        text NOT NULL DEFAULT '',
    prefix      text NOT NULL,
    hash        bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);
CREATE INDEX api_keys_prefix ON api_keys (prefix);

-- Submissions per second, shared by all API processes. Unlogged: after a crash everybody starts afresh.
CREATE UNLOGGED TABLE rate_windows (
    key        text PRIMARY KEY,
    amount     bigint NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- The leader's projection of WorkerPools.
CREATE TABLE pools (
    name       text PRIMARY KEY,
    spec       jsonb NOT NULL DEFAULT '{}',
    status     jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);

-- What REST asks of the leader; one open request of a kind per worker.
CREATE TABLE worker_requests (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    worker       text NOT NULL,
    action       text NOT NULL CHECK (action IN ('drain')),
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at      timestamptz,
    message      text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX worker_requests_open ON worker_requests (worker, action) WHERE done_at IS NULL;

-- One row: how fast the leader places, for Retry-After and estimated starts.
CREATE TABLE leader_stats (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    stats      jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);
INSERT INTO leader_stats DEFAULT VALUES;
