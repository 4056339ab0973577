-- How pools were scaled, and the workers that are on their way out. Expands only: code of 0003 runs on it.

-- One row per decision, kept for 30 days. worker: name of the node; instance: what the provider calls it.
CREATE TABLE scaling_decisions (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    epoch    bigint NOT NULL,
    pool     text NOT NULL,
    action   text NOT NULL,
    worker   text NOT NULL DEFAULT '',
    instance text NOT NULL DEFAULT '',
    wanted   integer,
    had      integer,
    reason   text NOT NULL DEFAULT '',
    message  text NOT NULL DEFAULT ''
);
CREATE INDEX scaling_decisions_pool ON scaling_decisions (pool, id DESC);
CREATE INDEX scaling_decisions_last ON scaling_decisions (pool, action, at DESC);
CREATE INDEX scaling_decisions_at ON scaling_decisions (at);

-- Workers that are being removed. The row is written before the first act and goes when the instance is gone, so that
-- the next leader knows how far the last one came. was_cordoned: people had cordoned the node before.
CREATE TABLE worker_drains (
    pool         text NOT NULL,
    instance     text NOT NULL,
    worker       text NOT NULL DEFAULT '',
    was_cordoned boolean NOT NULL DEFAULT false,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    cordoned_at  timestamptz,
    evicted_at   timestamptz,
    removing_at  timestamptz,
    PRIMARY KEY (pool, instance)
);
