-- Queue classes (rows that placement can't tell apart), the time that each row has waited, and exact counts of both.
-- Expands only: code of 0013 runs on it, and the triggers count its rows too. The indexes that go with it are built
-- outside of this transaction (store/postgres/indexes.py).

-- queue_class NULL: not computed yet, the row is a class of its own. waited_us: time waited before waiting_since, which is
-- set while the row waits (in the future during a backoff).
ALTER TABLE workload_state
    ADD COLUMN queue_class   text,
    ADD COLUMN waited_us     bigint,
    ADD COLUMN waiting_since timestamptz;
-- Hash of the spec as submitted, from which queue_class is computed with the visible labels.
ALTER TABLE workloads ADD COLUMN queue_base text;

-- Label keys that selectors of waiting or running workloads name. reach: namespace/<name>, customer/<name> or *.
CREATE TABLE visible_label_keys (
    reach    text NOT NULL,
    key      text NOT NULL,
    -- Transactions below it may not have seen the key; NULL: not determined yet.
    horizon  xid8,
    added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Rows of the reach up to this id have the key in their class; NULL: all of them.
    rekeyed  uuid DEFAULT '00000000-0000-0000-0000-000000000000',
    PRIMARY KEY (reach, key)
);

-- Folded counts of waiting rows by class, and of all rows by customer: the counts are these plus the deltas, read in one snapshot.
CREATE TABLE queue_class_counts (
    customer_id  text NOT NULL,
    queue_class  text NOT NULL,
    pending      bigint NOT NULL DEFAULT 0,
    pending_rest bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (customer_id, queue_class)
) WITH (fillfactor = 70);
CREATE TABLE customer_counts (
    customer_id text PRIMARY KEY,
    pending     bigint NOT NULL DEFAULT 0,
    held        bigint NOT NULL DEFAULT 0,
    suspended   bigint NOT NULL DEFAULT 0,
    scheduled   bigint NOT NULL DEFAULT 0,
    running     bigint NOT NULL DEFAULT 0,
    succeeded   bigint NOT NULL DEFAULT 0,
    failed      bigint NOT NULL DEFAULT 0,
    cancelled   bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
-- Appended by every transaction, so that writers share no row; folded and deleted by the leader.
CREATE TABLE queue_class_deltas (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id  text NOT NULL,
    queue_class  text NOT NULL,
    pending      bigint NOT NULL,
    pending_rest bigint NOT NULL,
    held         bigint NOT NULL,
    suspended    bigint NOT NULL,
    scheduled    bigint NOT NULL,
    running      bigint NOT NULL,
    succeeded    bigint NOT NULL,
    failed       bigint NOT NULL,
    cancelled    bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX queue_class_deltas_customer ON queue_class_deltas (customer_id);

-- Reasons of a refused class, written by the leader when they change.
CREATE TABLE class_states (
    customer_id text NOT NULL,
    queue_class text NOT NULL,
    reasons     jsonb NOT NULL DEFAULT '[]',
    reason      text NOT NULL DEFAULT '',
    message     text NOT NULL DEFAULT '',
    since       timestamptz NOT NULL,
    positions   jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (customer_id, queue_class)
) WITH (fillfactor = 70);

-- Compiled requirements of a class, in a format of the operator.
CREATE TABLE queue_classes (
    queue_class text PRIMARY KEY,
    compiled    bytea NOT NULL,
    written_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Keys that make a difference between workloads of this customer in this namespace, sorted.
CREATE FUNCTION internal_visible_keys(customer text, namespace text) RETURNS text[]
LANGUAGE sql STABLE AS $$
SELECT coalesce(array_agg(DISTINCT v.key ORDER BY v.key), '{}')
  FROM visible_label_keys v
 WHERE v.reach IN ('namespace/' || namespace, 'customer/' || customer, '*')
$$;

-- The queue class of a row, 32 hex digits; NULL without a base. The only place that computes it.
CREATE FUNCTION internal_queue_class(base text, keys text[], labels jsonb) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN base <> '' THEN
       md5(base || CASE WHEN cardinality(keys) = 0 THEN ''
                        ELSE coalesce((SELECT jsonb_object_agg(k, labels -> k)::text
                                         FROM unnest(keys) AS k WHERE labels ? k), '') END) END
$$;

-- The same for a row that the operator inserts or edits.
CREATE FUNCTION operator_queue_class(base text, customer text, namespace text, labels jsonb) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT internal_queue_class(base, internal_visible_keys(customer, namespace), labels)
$$;

-- A duration in whole microseconds, at least 0.
CREATE FUNCTION internal_microseconds(duration interval) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
SELECT greatest(0, (extract(epoch FROM duration) * 1000000)::bigint)
$$;

-- As `waited_us` in store/workloads/waited_time.py.
CREATE FUNCTION internal_waited_us(was workload_state, at timestamptz) RETURNS bigint
LANGUAGE sql STABLE AS $$
SELECT CASE
       WHEN was.status = 'PENDING' AND was.waiting_since IS NULL THEN internal_microseconds(at - was.queued_at)
       WHEN was.status = 'PENDING' THEN coalesce(was.waited_us, 0) + internal_microseconds(at - was.waiting_since)
       WHEN was.waiting_since IS NOT NULL
           THEN coalesce(was.waited_us, 0)
                + internal_microseconds(coalesce(was.scheduled_at, was.paused_at, was.waiting_since) - was.waiting_since)
       WHEN was.waited_us > 0 THEN was.waited_us
       ELSE internal_microseconds(coalesce(was.scheduled_at, was.paused_at, was.queued_at) - was.queued_at) END
$$;

-- Appends what a statement changed in the counts. Finished rows stay counted when they are deleted.
CREATE FUNCTION internal_count_states() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO queue_class_deltas (customer_id, queue_class, pending, pending_rest, held, suspended, scheduled,
                                        running, succeeded, failed, cancelled)
        SELECT s.customer_id, coalesce(s.queue_class, ''), count(*) FILTER (WHERE s.status = 'PENDING'),
               count(*) FILTER (WHERE s.status = 'PENDING' AND s.door = 'rest'),
               count(*) FILTER (WHERE s.status = 'HELD'),
               count(*) FILTER (WHERE s.status = 'SUSPENDED'),
               count(*) FILTER (WHERE s.status = 'SCHEDULED'),
               count(*) FILTER (WHERE s.status = 'RUNNING'),
               count(*) FILTER (WHERE s.status = 'SUCCEEDED'),
               count(*) FILTER (WHERE s.status = 'FAILED'),
               count(*) FILTER (WHERE s.status = 'CANCELLED')
          FROM added s GROUP BY 1, 2;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO queue_class_deltas (customer_id, queue_class, pending, pending_rest, held, suspended, scheduled,
                                        running, succeeded, failed, cancelled)
        SELECT s.customer_id, coalesce(s.queue_class, ''), -count(*) FILTER (WHERE s.status = 'PENDING'),
               -count(*) FILTER (WHERE s.status = 'PENDING' AND s.door = 'rest'),
               -count(*) FILTER (WHERE s.status = 'HELD'),
               -count(*) FILTER (WHERE s.status = 'SUSPENDED'),
               -count(*) FILTER (WHERE s.status = 'SCHEDULED'),
               -count(*) FILTER (WHERE s.status = 'RUNNING'),
               -count(*) FILTER (WHERE s.status = 'SUCCEEDED'),
               -count(*) FILTER (WHERE s.status = 'FAILED'),
               -count(*) FILTER (WHERE s.status = 'CANCELLED')
          FROM removed s WHERE s.status NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED') GROUP BY 1, 2;
    ELSE
        INSERT INTO queue_class_deltas (customer_id, queue_class, pending, pending_rest, held, suspended, scheduled,
                                        running, succeeded, failed, cancelled)
        SELECT s.customer_id, s.queue_class, coalesce(sum(s.n) FILTER (WHERE s.status = 'PENDING'), 0),
               coalesce(sum(s.n) FILTER (WHERE s.status = 'PENDING' AND s.door = 'rest'), 0),
               coalesce(sum(s.n) FILTER (WHERE s.status = 'HELD'), 0),
               coalesce(sum(s.n) FILTER (WHERE s.status = 'SUSPENDED'), 0),
               coalesce(sum(s.n) FILTER (WHERE s.status = 'SCHEDULED'), 0),
               coalesce(sum(s.n) FILTER (WHERE s.status = 'RUNNING'), 0),
               coalesce(sum(s.n) FILTER (WHERE s.status = 'SUCCEEDED'), 0),
               coalesce(sum(s.n) FILTER (WHERE s.status = 'FAILED'), 0),
               coalesce(sum(s.n) FILTER (WHERE s.status = 'CANCELLED'), 0)
          FROM (SELECT x.customer_id, coalesce(x.queue_class, '') AS queue_class, x.status, x.door, x.n
                  FROM removed r JOIN added a USING (id)
                 CROSS JOIN LATERAL (VALUES (r.customer_id, r.queue_class, r.status, r.door, -1),
                                            (a.customer_id, a.queue_class, a.status, a.door, 1))
                         AS x (customer_id, queue_class, status, door, n)
                 WHERE (r.customer_id, r.queue_class, r.status) IS DISTINCT FROM (a.customer_id, a.queue_class, a.status)
               ) AS s
         GROUP BY 1, 2;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER workload_state_counts_insert AFTER INSERT ON workload_state
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION internal_count_states();
CREATE TRIGGER workload_state_counts_update AFTER UPDATE ON workload_state
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION internal_count_states();
CREATE TRIGGER workload_state_counts_delete AFTER DELETE ON workload_state
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION internal_count_states();

-- The triggers' lock ends the transactions that counted without them, so that these sums miss none.
INSERT INTO customer_counts
SELECT customer_id, sum(pending), sum(held), sum(suspended), sum(scheduled), sum(running), sum(succeeded), sum(failed),
       sum(cancelled)
  FROM queue_counters GROUP BY customer_id;

-- As in 0007, from the customers' own counts, however many classes they have.
CREATE OR REPLACE FUNCTION internal_lock_limits(wanted jsonb) RETURNS TABLE (customer text, most bigint, waiting bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    limits jsonb;
BEGIN
    SELECT coalesce(jsonb_object_agg(w.key, least(w.value::bigint, (c.limits ->> 'maxQueueDepth')::bigint)), '{}')
      INTO limits
      FROM jsonb_each_text(wanted) AS w LEFT JOIN customers c ON c.name = w.key
     WHERE least(w.value::bigint, (c.limits ->> 'maxQueueDepth')::bigint) IS NOT NULL;
    PERFORM pg_advisory_xact_lock(1313434940, k.hash)
       FROM (SELECT DISTINCT hashtext(l.key) AS hash FROM jsonb_each(limits) AS l ORDER BY 1) AS k;
    -- A statement of its own, so that it sees commits from the time of waiting for the lock.
    RETURN QUERY
    SELECT l.key, l.value::bigint,
           coalesce((SELECT q.pending + q.held + q.suspended FROM customer_counts q WHERE q.customer_id = l.key), 0)
           + coalesce((SELECT sum(q.pending + q.held + q.suspended)::bigint FROM queue_class_deltas q
                        WHERE q.customer_id = l.key), 0)
      FROM jsonb_each_text(limits) AS l;
END
$$;

-- As in 0007, and writes the queue class, the waiting time and the visible keys.
CREATE OR REPLACE FUNCTION door_submit(items jsonb, answers jsonb, forgotten jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    problem text;
    rules queue_rules;
BEGIN
    IF forgotten <> '[]' THEN
        DELETE FROM idempotency i USING jsonb_to_recordset(forgotten) AS r (customer_id text, key text)
         WHERE i.customer_id = r.customer_id AND i.key = r.key AND i.status IS NULL;
    END IF;
    IF answers <> '[]' THEN
        UPDATE idempotency i SET status = r.status, response = r.response
          FROM jsonb_to_recordset(answers) AS r (customer_id text, key text, status integer, response jsonb)
         WHERE i.customer_id = r.customer_id AND i.key = r.key AND i.status IS NULL;
    END IF;
    IF items = '[]' THEN
        RETURN;
    END IF;
    SELECT q.* INTO rules FROM queue_rules q;
    IF items @? '$[*].visible_keys[*]' THEN
        -- A statement of its own, so that the rows below see the keys. A reach beyond that of the item is left out.
        INSERT INTO visible_label_keys (reach, key)
        SELECT DISTINCT k ->> 0, k ->> 1
          FROM jsonb_array_elements(items) AS i
          JOIN customers c ON c.name = i ->> 'customer'
         CROSS JOIN LATERAL jsonb_array_elements(i -> 'visible_keys') AS k
         WHERE octet_length(k ->> 1) BETWEEN 1 AND 317
           AND (k ->> 0 IN ('namespace/' || (i ->> 'namespace'), 'customer/' || (i ->> 'customer'))
                OR (k ->> 0 = '*' AND c.allow_cluster_scope))
         ORDER BY 1, 2
            ON CONFLICT DO NOTHING;
    END IF;
    WITH item AS MATERIALIZED (
        SELECT r.*, internal_submission_problem(
               r.namespace, r.name, r.type, r.labels, r.spec, r.class_id, r.replicas, r.priority, r.status) AS problem,
               now() + (r.place - 1) * interval '1 microsecond' AS at
          FROM ROWS FROM (jsonb_to_recordset(items) AS (
                   id uuid, namespace text, name text, customer text, type text, labels jsonb, spec jsonb,
                   class_id text, replicas integer, priority integer, tier_weight integer, status text,
                   queue_class text))
               WITH ORDINALITY AS r (id, namespace, name, customer, type, labels, spec, class_id, replicas, priority,
                                     tier_weight, status, queue_class, place)
    ), owner AS MATERIALIZED (
        SELECT u.customer, u.namespace, c.tier_weight
          FROM (SELECT DISTINCT i.customer, i.namespace FROM item i) AS u
          JOIN customers c ON c.name = u.customer AND NOT c.deleted
         WHERE u.namespace = ANY (c.namespaces)
            OR ('*' = ANY (c.namespaces)
                AND NOT EXISTS (SELECT 1 FROM customers o
                                 WHERE NOT o.deleted AND o.namespaces @> ARRAY[u.namespace]))
    ), visible AS MATERIALIZED (
        SELECT u.customer, u.namespace, internal_visible_keys(u.customer, u.namespace) AS keys
          FROM (SELECT DISTINCT i.customer, i.namespace FROM item i) AS u
    ), room AS MATERIALIZED (
        SELECT l.customer
          FROM (SELECT i.customer, count(*) AS n FROM item i GROUP BY 1) AS mine
          JOIN internal_lock_limits((SELECT jsonb_object_agg(u.customer, NULL)
                                       FROM (SELECT DISTINCT i.customer FROM item i) AS u)) AS l
            ON l.customer = mine.customer
         WHERE l.waiting + mine.n > l.most
    ), judged AS MATERIALIZED (
        SELECT i.*, v.keys, coalesce(o.tier_weight, least(greatest(i.tier_weight, 1), 100)) AS weight,
               CASE WHEN i.problem IS NOT NULL THEN i.problem
                    WHEN o.customer IS NULL THEN 'its customer or namespace'
                    WHEN n.id IS DISTINCT FROM i.id THEN 'its name was not taken'
                    WHEN i.customer IN (SELECT r.customer FROM room r) THEN 'its customer has no room' END AS refusal
          FROM item i
          JOIN visible v ON v.customer IS NOT DISTINCT FROM i.customer AND v.namespace IS NOT DISTINCT FROM i.namespace
          LEFT JOIN owner o ON o.customer = i.customer AND o.namespace = i.namespace
          LEFT JOIN rest_names n ON n.customer_id = i.customer AND n.name = i.name
    ), chosen AS MATERIALIZED (
        SELECT j.*,
               CASE WHEN rules.enable_priority THEN j.priority::bigint * j.weight * 60000000 ELSE 0 END
               - CASE WHEN rules.enable_aging
                      THEN rules.boost_per_minute * (extract(epoch FROM j.at) * 1000000)::bigint ELSE 0 END AS queue_key
          FROM judged j
         WHERE NOT EXISTS (SELECT 1 FROM judged x WHERE x.refusal IS NOT NULL)
    ), specs AS (
        INSERT INTO workloads (id, door, namespace, name, customer_id, type, labels, generation, spec, class_id,
                               replicas, created_at, spec_bytes, queue_base)
        SELECT i.id, 'rest', i.namespace, i.name, i.customer, i.type, i.labels, 1, i.spec, i.class_id, i.replicas, i.at,
               octet_length(i.spec::text), left(nullif(i.queue_class, ''), 64)
          FROM chosen i
    ), states AS (
        INSERT INTO workload_state (id, customer_id, class_id, status, priority, tier_weight, queue_key, queued_at,
                                    created_at, paused_at, door, queue_class, waited_us, waiting_since)
        SELECT i.id, i.customer, i.class_id, i.status, i.priority, i.weight, i.queue_key, i.at, i.at,
               CASE WHEN i.status = 'SUSPENDED' THEN i.at END, 'rest',
               internal_queue_class(left(i.queue_class, 64), i.keys, i.labels), 0,
               CASE WHEN i.status = 'PENDING' THEN i.at END
          FROM chosen i
    ), events AS (
        INSERT INTO workload_events (workload_id, at, event, to_phase)
        SELECT i.id, now(), 'Accepted', i.status FROM chosen i
    ), counters AS (
        -- Ordered, because all writers for the customer share these rows.
        INSERT INTO queue_counters AS c (customer_id, class_id, pending, suspended)
        SELECT i.customer, i.class_id, count(*) FILTER (WHERE i.status = 'PENDING'),
               count(*) FILTER (WHERE i.status = 'SUSPENDED')
          FROM chosen i GROUP BY 1, 2 ORDER BY 1, 2
            ON CONFLICT (customer_id, class_id) DO UPDATE
           SET pending = c.pending + excluded.pending, suspended = c.suspended + excluded.suspended
    )
    SELECT format('item %s of the submission is refused: %s', j.place, j.refusal) INTO problem
      FROM judged j WHERE j.refusal IS NOT NULL ORDER BY j.place LIMIT 1;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'NY001', MESSAGE = problem;
    END IF;
END
$$;

-- As in 0007, and keeps the time waited.
CREATE OR REPLACE FUNCTION door_move(workload uuid, event text) RETURNS TABLE (status text, moved boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    was workload_state;
    was_bound boolean;
    wanted text;
    at timestamptz := clock_timestamp();
    paused timestamptz;
    queued timestamptz;
    why text;
    waited bigint;
    since timestamptz;
    class_before text;
    class_after text;
BEGIN
    SELECT s.* INTO was FROM workload_state s WHERE s.id = workload FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF was.door <> 'rest' THEN
        RAISE EXCEPTION USING ERRCODE = 'NY001', MESSAGE = 'the workload was not submitted by REST';
    END IF;
    wanted := CASE
        WHEN event = 'Cancel' AND was.status IN ('PENDING', 'HELD', 'SCHEDULED', 'RUNNING', 'SUSPENDED')
             THEN 'CANCELLED'
        WHEN event = 'Suspend' AND was.status IN ('PENDING', 'HELD', 'SCHEDULED', 'RUNNING') THEN 'SUSPENDED'
        WHEN event = 'Resume' AND was.status = 'SUSPENDED' THEN 'PENDING' END;
    IF wanted IS NULL THEN
        RETURN QUERY SELECT was.status, false;
        RETURN;
    END IF;
    was_bound := was.status IN ('SCHEDULED', 'RUNNING');
    why := CASE event WHEN 'Cancel' THEN 'Cancelled' WHEN 'Suspend' THEN 'Suspended' ELSE 'Resumed' END;
    paused := CASE WHEN wanted = 'SUSPENDED' THEN coalesce(was.paused_at, greatest(at, was.not_before)) END;
    -- As `waiting` in store/workloads/waited_time.py: time outside the queue doesn't count as waiting.
    waited := internal_waited_us(was, at);
    since := CASE WHEN wanted = 'PENDING' THEN greatest(at, was.not_before) END;
    queued := CASE WHEN wanted = 'PENDING' THEN since - waited * interval '1 microsecond' ELSE was.queued_at END;
    UPDATE workload_state s
       SET status = wanted, version = was.version + 1, reason = why, message = 'requested by REST', reasons = '[]',
           wake_at = NULL, paused_at = paused, queued_at = queued,
           waited_us = waited, waiting_since = since,
           queue_key = internal_queue_key(was.priority, was.tier_weight, queued),
           finished_at = CASE WHEN wanted = 'CANCELLED' THEN at ELSE was.finished_at END,
           workers = CASE WHEN was_bound AND wanted = 'SUSPENDED' THEN '{}' ELSE was.workers END,
           pool = CASE WHEN was_bound AND wanted = 'SUSPENDED' THEN '' ELSE was.pool END,
           score = CASE WHEN was_bound AND wanted = 'SUSPENDED' THEN NULL ELSE was.score END,
           scheduled_at = CASE WHEN was_bound AND wanted = 'SUSPENDED' THEN NULL ELSE was.scheduled_at END,
           started_at = CASE WHEN was_bound AND wanted = 'SUSPENDED' THEN NULL ELSE was.started_at END,
           changed = pg_current_xact_id(), writer = 0
     WHERE s.id = workload;
    IF wanted <> 'CANCELLED' THEN
        UPDATE workloads w
           SET spec = jsonb_set(w.spec, '{suspend}', to_jsonb(wanted = 'SUSPENDED')), generation = w.generation + 1
         WHERE w.id = workload;
    ELSE
        DELETE FROM rest_names n WHERE n.id = workload;
    END IF;
    IF was_bound THEN
        INSERT INTO attempts AS a (workload_id, attempt, workers, pool, score, scheduled_at, started_at, finished_at,
                                   outcome, reason)
        VALUES (workload, was.attempt, was.workers, was.pool, was.score, was.scheduled_at, was.started_at, at, event, why)
            ON CONFLICT (workload_id, attempt) DO UPDATE
           SET started_at = excluded.started_at, finished_at = excluded.finished_at, outcome = excluded.outcome,
               reason = excluded.reason;
    END IF;
    INSERT INTO workload_events (workload_id, at, event, from_phase, to_phase, attempt, workers, score, reason, message)
    VALUES (workload, at, event, was.status, wanted, was.attempt, was.workers, was.score, why, 'requested by REST');
    class_before := was.class_id;
    class_after := CASE WHEN wanted = 'CANCELLED' THEN '' ELSE was.class_id END;
    INSERT INTO queue_counters AS c (customer_id, class_id, pending, held, suspended, scheduled, running, cancelled)
    SELECT was.customer_id, step.class_id, sum(step.n) FILTER (WHERE step.status = 'PENDING'),
           sum(step.n) FILTER (WHERE step.status = 'HELD'), sum(step.n) FILTER (WHERE step.status = 'SUSPENDED'),
           sum(step.n) FILTER (WHERE step.status = 'SCHEDULED'), sum(step.n) FILTER (WHERE step.status = 'RUNNING'),
           sum(step.n) FILTER (WHERE step.status = 'CANCELLED')
      FROM (SELECT s.class_id, s.status, coalesce(s.n, 0) AS n
              FROM (VALUES (class_before, was.status, -1), (class_after, wanted, 1)) AS s (class_id, status, n)
             UNION ALL
            SELECT x.class_id, y.status, 0
              FROM (VALUES (class_before), (class_after)) AS x (class_id)
             CROSS JOIN (VALUES ('PENDING'), ('HELD'), ('SUSPENDED'), ('SCHEDULED'), ('RUNNING'), ('CANCELLED'))
                     AS y (status)) AS step
     GROUP BY step.class_id ORDER BY step.class_id
        ON CONFLICT (customer_id, class_id) DO UPDATE
       SET pending = c.pending + excluded.pending, held = c.held + excluded.held,
           suspended = c.suspended + excluded.suspended, scheduled = c.scheduled + excluded.scheduled,
           running = c.running + excluded.running, cancelled = c.cancelled + excluded.cancelled;
    RETURN QUERY SELECT was.status, true;
END
$$;

DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS name, p.proname FROM pg_proc p
              WHERE p.pronamespace = current_schema()::regnamespace
                AND p.proname IN ('door_submit', 'door_move', 'operator_queue_class', 'internal_visible_keys', 'internal_queue_class',
                                  'internal_waited_us', 'internal_microseconds', 'internal_count_states')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f.name);
        IF f.proname IN ('door_submit', 'door_move', 'operator_queue_class', 'internal_count_states') THEN
            EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp',
                           f.name, current_schema());
        END IF;
    END LOOP;
END
$$;
