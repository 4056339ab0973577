-- Functions through which the REST door's role writes, and the operator's role makes partitions, so that neither owns a
-- table. They run as their owner with a fixed search_path. Expands only: code of 0006 runs on it.

-- The leader's rules of the queue's order, and the weight of each customer: the door can't choose its own.
CREATE TABLE queue_rules (
    one              boolean PRIMARY KEY DEFAULT true CHECK (one),
    enable_priority  boolean NOT NULL DEFAULT true,
    enable_aging     boolean NOT NULL DEFAULT true,
    boost_per_minute integer NOT NULL DEFAULT 5
) WITH (fillfactor = 50);
INSERT INTO queue_rules DEFAULT VALUES;
ALTER TABLE customers ADD COLUMN tier_weight integer;

-- As engine/queue.py computes it; moments as whole microseconds.
CREATE FUNCTION internal_queue_key(priority integer, weight integer, queued_at timestamptz) RETURNS bigint
LANGUAGE sql STABLE AS $$
SELECT (CASE WHEN enable_priority THEN priority::bigint * weight * 60000000 ELSE 0 END)
     - (CASE WHEN enable_aging THEN boost_per_minute * (extract(epoch FROM queued_at) * 1000000)::bigint ELSE 0 END)
  FROM queue_rules
$$;

-- The problem of one submission, or null. Bounds as in bounded_json.py: 64 levels, 64-bit numbers. A single expression
-- without queries, because it is evaluated for each item.
CREATE FUNCTION internal_submission_problem(
    namespace text, name text, type text, labels jsonb, spec jsonb, class_id text, replicas integer, priority integer,
    status text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE
        WHEN status IS NULL OR status NOT IN ('PENDING', 'SUSPENDED') THEN 'phase'
        WHEN namespace IS NULL OR namespace !~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$' THEN 'namespace'
        WHEN namespace LIKE 'kube-%' THEN 'namespace'
        WHEN name IS NULL OR name = '' OR octet_length(name) > 253 THEN 'name'
        WHEN type IS NULL OR octet_length(type) > 1024 THEN 'type'
        WHEN class_id IS NULL OR octet_length(class_id) NOT BETWEEN 1 AND 256 THEN 'class_id'
        WHEN replicas IS NULL OR replicas NOT BETWEEN 1 AND 100000 THEN 'replicas'
        WHEN priority IS NULL OR priority NOT BETWEEN 0 AND 100 THEN 'priority'
        WHEN labels IS NULL OR jsonb_typeof(labels) <> 'object' OR pg_column_size(labels) > 65536
             OR jsonb_path_exists(labels, 'strict $.* ? (@.type() != "string")', '{}', true) THEN 'labels'
        WHEN spec IS NULL OR jsonb_typeof(spec) <> 'object' THEN 'spec'
        WHEN pg_column_size(spec) > 3145728 THEN 'size of the spec'
        WHEN jsonb_path_exists(
             spec, 'strict $.**{64} ? (@.type() == "object" || @.type() == "array")', '{}', true)
             THEN 'depth of the spec'
        WHEN jsonb_path_exists(
             spec,
             'strict $.** ? (@.type() == "number") ? (@ > 9223372036854775807 || @ < -9223372036854775808)', '{}', true)
             THEN 'numbers of the spec'
    END;
END
$$;

-- Locks the customers with a limit until the transaction ends; their waiting workloads and the lower of both limits.
-- wanted: customer -> limit known to the door, or null.
CREATE FUNCTION internal_lock_limits(wanted jsonb) RETURNS TABLE (customer text, most bigint, waiting bigint)
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
           coalesce((SELECT sum(q.pending + q.held + q.suspended)::bigint FROM queue_counters q
                      WHERE q.customer_id = l.key), 0)
      FROM jsonb_each_text(limits) AS l;
END
$$;

-- Claims idempotency keys; returns the claimed pairs. Waits for another transaction with the same key.
CREATE FUNCTION door_claim_keys(records jsonb) RETURNS TABLE (customer text, idempotency_key text)
LANGUAGE sql VOLATILE AS $$
INSERT INTO idempotency AS i (customer_id, key, body_hash, created_at)
SELECT r.customer_id, r.key, decode(r.body_hash, 'hex'), clock_timestamp()
  FROM jsonb_to_recordset(records) AS r (customer_id text, key text, body_hash text)
 ORDER BY 1, 2
    ON CONFLICT (customer_id, key) DO UPDATE
   SET body_hash = excluded.body_hash, status = NULL, response = NULL, created_at = excluded.created_at
 WHERE i.created_at < clock_timestamp() - interval '24 hours'
RETURNING i.customer_id, i.key
$$;

CREATE FUNCTION door_answers(customers text[], keys text[])
RETURNS TABLE (customer text, idempotency_key text, body_hash text, status integer, response jsonb)
LANGUAGE sql STABLE AS $$
SELECT i.customer_id, i.key, encode(i.body_hash, 'hex'), i.status, i.response
  FROM idempotency i
 WHERE (i.customer_id, i.key) IN (SELECT * FROM unnest(customers, keys))
   AND i.status IS NOT NULL AND i.created_at >= clock_timestamp() - interval '24 hours'
$$;

-- Chooses the items that may be submitted in this transaction: takes their names, within the limits. items: id, customer,
-- name, in order; limits: customer -> limit or null. Returns the refused ones.
CREATE FUNCTION door_choose(items jsonb, limits jsonb) RETURNS TABLE (id text, refusal text, depth bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    room jsonb;
BEGIN
    SELECT coalesce(jsonb_object_agg(l.customer, jsonb_build_array(l.most, l.waiting)), '{}')
      INTO room FROM internal_lock_limits(limits) AS l;
    RETURN QUERY
    WITH item AS MATERIALIZED (
        SELECT r.id, r.customer, r.name, r.place, (room -> r.customer ->> 0)::bigint AS most,
               coalesce((room -> r.customer ->> 1)::bigint, 0) AS waiting,
               row_number() OVER (PARTITION BY r.customer, r.name ORDER BY r.place) AS mention
          FROM ROWS FROM (jsonb_to_recordset(items) AS (id uuid, customer text, name text))
               WITH ORDINALITY AS r (id, customer, name, place)
    ), free AS (
        SELECT i.*, row_number() OVER (PARTITION BY i.customer ORDER BY i.place) AS rank
          FROM item i
         WHERE i.mention = 1
           AND NOT EXISTS (
               SELECT 1 FROM rest_names n LEFT JOIN workload_state s ON s.id = n.id
                WHERE n.customer_id = i.customer AND n.name = i.name
                  AND (s.id IS NULL OR s.status NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED')))
    ), wanted AS (
        SELECT f.id, f.customer, f.name FROM free f WHERE f.most IS NULL OR f.waiting + f.rank <= f.most
    ), taken AS (
        -- The name of a finished workload is free, however it finished. Ordered, so that two batches cannot deadlock.
        INSERT INTO rest_names AS n (customer_id, name, id)
        SELECT w.customer, w.name, w.id FROM wanted w ORDER BY w.customer, w.name
            ON CONFLICT (customer_id, name) DO UPDATE SET id = excluded.id
         WHERE EXISTS (SELECT 1 FROM workload_state s
                        WHERE s.id = n.id AND s.status IN ('SUCCEEDED', 'FAILED', 'CANCELLED'))
        RETURNING n.id
    )
    SELECT i.id::text,
           CASE WHEN i.waiting >= i.most OR (f.id IS NOT NULL AND w.id IS NULL) THEN 'QueueFull' ELSE 'NameTaken' END,
           greatest(i.most, i.waiting)
      FROM item i LEFT JOIN free f ON f.place = i.place LEFT JOIN wanted w ON w.id = i.id
     WHERE NOT EXISTS (SELECT 1 FROM taken t WHERE t.id = i.id);
END
$$;

-- Inserts the chosen items as REST rows in phase Pending or Suspended, stores the answers to claimed keys and forgets
-- other claimed keys. The moment of a row is the transaction's start, a microsecond apart, so that the queue keeps the order.
CREATE FUNCTION door_submit(items jsonb, answers jsonb, forgotten jsonb) RETURNS void
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
    WITH item AS MATERIALIZED (
        SELECT r.*, internal_submission_problem(
               r.namespace, r.name, r.type, r.labels, r.spec, r.class_id, r.replicas, r.priority, r.status) AS problem,
               now() + (r.place - 1) * interval '1 microsecond' AS at
          FROM ROWS FROM (jsonb_to_recordset(items) AS (
                   id uuid, namespace text, name text, customer text, type text, labels jsonb, spec jsonb,
                   class_id text, replicas integer, priority integer, tier_weight integer, status text))
               WITH ORDINALITY AS r (id, namespace, name, customer, type, labels, spec, class_id, replicas, priority,
                                     tier_weight, status, place)
    ), owner AS MATERIALIZED (
        SELECT u.customer, u.namespace, c.tier_weight
          FROM (SELECT DISTINCT i.customer, i.namespace FROM item i) AS u
          JOIN customers c ON c.name = u.customer AND NOT c.deleted
         WHERE u.namespace = ANY (c.namespaces)
            OR ('*' = ANY (c.namespaces)
                AND NOT EXISTS (SELECT 1 FROM customers o
                                 WHERE NOT o.deleted AND o.namespaces @> ARRAY[u.namespace]))
    ), room AS MATERIALIZED (
        SELECT l.customer
          FROM (SELECT i.customer, count(*) AS n FROM item i GROUP BY 1) AS mine
          JOIN internal_lock_limits((SELECT jsonb_object_agg(u.customer, NULL)
                                       FROM (SELECT DISTINCT i.customer FROM item i) AS u)) AS l
            ON l.customer = mine.customer
         WHERE l.waiting + mine.n > l.most
    ), judged AS MATERIALIZED (
        SELECT i.*, coalesce(o.tier_weight, least(greatest(i.tier_weight, 1), 100)) AS weight,
               CASE WHEN i.problem IS NOT NULL THEN i.problem
                    WHEN o.customer IS NULL THEN 'its customer or namespace'
                    WHEN n.id IS DISTINCT FROM i.id THEN 'its name was not taken'
                    WHEN i.customer IN (SELECT r.customer FROM room r) THEN 'its customer has no room' END AS refusal
          FROM item i
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
                               replicas, created_at, spec_bytes)
        SELECT i.id, 'rest', i.namespace, i.name, i.customer, i.type, i.labels, 1, i.spec, i.class_id, i.replicas, i.at,
               octet_length(i.spec::text)
          FROM chosen i
    ), states AS (
        INSERT INTO workload_state (id, customer_id, class_id, status, priority, tier_weight, queue_key, queued_at,
                                    created_at, paused_at, door)
        SELECT i.id, i.customer, i.class_id, i.status, i.priority, i.weight, i.queue_key, i.at, i.at,
               CASE WHEN i.status = 'SUSPENDED' THEN i.at END, 'rest'
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

-- Cancels, suspends or resumes a REST row, as store/workloads/transitions.py does. Returns the phase before, and
-- whether the row moved; no row for an unknown id.
CREATE FUNCTION door_move(workload uuid, event text) RETURNS TABLE (status text, moved boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    was workload_state;
    was_bound boolean;
    wanted text;
    at timestamptz := clock_timestamp();
    paused timestamptz;
    queued timestamptz;
    why text;
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
    -- Time outside the queue doesn't count as waiting.
    queued := CASE WHEN wanted = 'PENDING' AND was.paused_at IS NOT NULL
                   THEN was.queued_at + greatest(at - was.paused_at, interval '0') ELSE was.queued_at END;
    UPDATE workload_state s
       SET status = wanted, version = was.version + 1, reason = why, message = 'requested by REST', reasons = '[]',
           wake_at = NULL, paused_at = paused, queued_at = queued,
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

-- Asks the leader to drain a worker; returns the open request of the same kind, if one exists.
CREATE FUNCTION door_request_worker(worker_name text, wanted text, asked_by text) RETURNS SETOF worker_requests
LANGUAGE sql VOLATILE AS $$
INSERT INTO worker_requests (worker, action, requested_by)
SELECT w.name, wanted, left(asked_by, 200) FROM workers w WHERE w.name = worker_name
    ON CONFLICT (worker, action) WHERE done_at IS NULL DO UPDATE SET requested_by = worker_requests.requested_by
RETURNING worker_requests.*
$$;

-- The live API key with this prefix and SHA-256 (hex). The stored hash is not returned.
CREATE FUNCTION door_api_key(key_prefix text, key_hash text)
RETURNS TABLE (id uuid, customer_id text, role text, name text, prefix text, created_at timestamptz,
               expires_at timestamptz, revoked_at timestamptz)
LANGUAGE sql STABLE AS $$
SELECT k.id, k.customer_id, k.role, k.name, k.prefix, k.created_at, k.expires_at, k.revoked_at
  FROM api_keys k
 WHERE k.prefix = key_prefix AND k.hash = decode(key_hash, 'hex') AND k.revoked_at IS NULL
   AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
$$;

-- Sliding window of two counters. The row lock of the current one makes it exact. It takes the whole amount or nothing.
CREATE FUNCTION door_rate_acquire(rate_key text, most bigint, expiry integer, wanted bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    at float8 := extract(epoch FROM clock_timestamp())::float8 / expiry;
    place bigint := floor(at)::bigint;
    weight float8;
BEGIN
    IF wanted < 0 OR octet_length(rate_key) > 200 THEN
        RAISE EXCEPTION USING ERRCODE = 'NY001', MESSAGE = 'the rate window is refused';
    END IF;
    SELECT coalesce(max(w.amount), 0) * (1 - (at - place)) INTO weight
      FROM rate_windows w WHERE w.key = rate_key || '/' || (place - 1);
    IF weight + wanted > most THEN
        RETURN false;
    END IF;
    INSERT INTO rate_windows AS w (key, amount, expires_at)
    VALUES (rate_key || '/' || place, wanted, clock_timestamp() + 2 * expiry * interval '1 second')
        ON CONFLICT (key) DO UPDATE SET amount = w.amount + excluded.amount
     WHERE weight + w.amount + excluded.amount <= most;
    RETURN FOUND;
END
$$;

-- Previous amount, seconds until it expires, current amount, seconds until it expires.
CREATE FUNCTION door_rate_window(rate_key text, expiry integer)
RETURNS TABLE (earlier bigint, earlier_left float8, current bigint, current_left float8)
LANGUAGE sql STABLE AS $$
SELECT coalesce((SELECT amount FROM rate_windows WHERE key = rate_key || '/' || (floor(c.at)::bigint - 1)), 0),
       ((1 - (c.at - floor(c.at))) * expiry)::float8,
       coalesce((SELECT amount FROM rate_windows WHERE key = rate_key || '/' || floor(c.at)::bigint), 0),
       ((2 - (c.at - floor(c.at))) * expiry)::float8
  FROM (SELECT extract(epoch FROM clock_timestamp())::float8 / expiry AS at) AS c
$$;

-- Deletes expired rate windows and idempotency keys.
CREATE FUNCTION door_prune() RETURNS void
LANGUAGE sql VOLATILE AS $$
DELETE FROM rate_windows WHERE expires_at < clock_timestamp();
DELETE FROM idempotency WHERE created_at < now() - interval '24 hours'
$$;

-- Creates the events' partition of a UTC day near today; false when the default partition has events of that day.
-- Attached, because CREATE ... PARTITION OF blocks reads and writes of the parent.
CREATE FUNCTION operator_create_partition(day date) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    starts timestamptz := day::timestamp AT TIME ZONE 'UTC';
    ends timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
    called text := format('%s.%I', (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'workload_events'::regclass),
                          'workload_events_' || to_char(day, 'YYYYMMDD'));
BEGIN
    IF EXISTS (SELECT 1 FROM workload_events_default d WHERE d.at >= starts AND d.at < ends) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %s (LIKE workload_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', called);
    EXECUTE format('ALTER TABLE workload_events ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', called, starts, ends);
    RETURN true;
END
$$;

-- Drops the events' partition of a UTC day, which must be older than 29 days.
CREATE FUNCTION operator_drop_partition(day date) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF day > (now() AT TIME ZONE 'UTC')::date - 29 THEN
        RAISE EXCEPTION USING ERRCODE = 'NY001', MESSAGE = 'the partition is too young to be dropped';
    END IF;
    EXECUTE format('DROP TABLE %I', 'workload_events_' || to_char(day, 'YYYYMMDD'));
END
$$;

DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS name, p.proname FROM pg_proc p
              WHERE p.pronamespace = current_schema()::regnamespace
                AND p.proname ~ '^(door|operator|internal)_'
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f.name);
        -- pg_temp last: otherwise a caller's temporary table would take the place of ours. Functions that only others
        -- call run inside these, with their rights and path.
        IF f.proname !~ '^internal_' THEN
            EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp',
                           f.name, current_schema());
        END IF;
    END LOOP;
END
$$;
