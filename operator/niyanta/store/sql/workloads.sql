-- fragment: state_record
id uuid, class_id text, status text, version bigint, priority integer, tier_weight integer, queue_key bigint,
queued_at timestamptz, attempt integer, failures integer, rejections integer, not_before timestamptz,
wake_at timestamptz, paused_at timestamptz, waited_us bigint, waiting_since timestamptz, scheduled_at timestamptz, started_at timestamptz, finished_at timestamptz,
pool text, workers text[], pools text[], score real, reason text, message text, excluded jsonb

-- name: lock_rows
-- Ordered, so that two batches cannot deadlock.
SELECT {{workload_without_spec_row}}
  FROM workload_state s JOIN workloads w USING (id)
 WHERE s.id = ANY(%(ids)s::uuid[])
 ORDER BY s.id
   FOR NO KEY UPDATE OF s;

-- name: insert_specs
INSERT INTO workloads (id, door, namespace, name, customer_id, type, labels, generation, spec, class_id, replicas,
                       created_at, spec_bytes, queue_base)
SELECT id, door, namespace, name, customer_id, type, labels, generation, spec, class_id, replicas, created_at,
       octet_length(spec::text), queue_base
  FROM jsonb_to_recordset(%(records)s::jsonb)
       AS r (id uuid, door text, namespace text, name text, customer_id text, type text, labels jsonb,
             generation bigint, spec jsonb, class_id text, replicas integer, created_at timestamptz,
             queue_base text)
 ORDER BY id
    ON CONFLICT (id) DO NOTHING
RETURNING id::text;

-- name: insert_states
INSERT INTO workload_state (id, customer_id, class_id, status, version, priority, tier_weight, queue_key, queued_at,
                            created_at, wake_at, paused_at, waited_us, waiting_since, finished_at, reason, message, door,
                            writer, queue_class)
SELECT r.id, w.customer_id, r.class_id, r.status, r.version, r.priority, r.tier_weight, r.queue_key, r.queued_at,
       w.created_at, r.wake_at, r.paused_at, r.waited_us, r.waiting_since, r.finished_at, r.reason, r.message, w.door, %(writer)s,
       operator_queue_class(w.queue_base, w.customer_id, w.namespace, w.labels)
  FROM jsonb_to_recordset(%(records)s::jsonb) AS r ({{state_record}})
  JOIN workloads w ON w.id = r.id
RETURNING id::text, coalesce(queue_class, '');

-- name: update_classes
-- Computes the queue classes of rows whose base or labels changed.
UPDATE workload_state s
   SET queue_class = operator_queue_class(w.queue_base, w.customer_id, w.namespace, w.labels)
  FROM workloads w
 WHERE w.id = s.id AND s.id = ANY(%(ids)s::uuid[])
RETURNING s.id::text, coalesce(s.queue_class, '');

-- name: add_visible_keys
INSERT INTO visible_label_keys (reach, key)
SELECT DISTINCT reach, key FROM jsonb_to_recordset(%(records)s::jsonb) AS r (reach text, key text)
 ORDER BY reach, key
    ON CONFLICT DO NOTHING;

-- name: update_specs
-- A record whose spec is null keeps the stored one, and the base of its queue class.
UPDATE workloads w
   SET labels = r.labels, generation = r.generation, spec = coalesce(r.spec, w.spec), class_id = r.class_id,
       queue_base = CASE WHEN r.spec IS NULL THEN w.queue_base ELSE r.queue_base END, type = r.type,
       spec_bytes = coalesce(octet_length(r.spec::text), w.spec_bytes)
  FROM jsonb_to_recordset(%(records)s::jsonb)
       AS r (id uuid, labels jsonb, generation bigint, spec jsonb, class_id text, type text,
             queue_base text)
 WHERE w.id = r.id;

-- name: update_states
UPDATE workload_state s
   SET class_id = r.class_id, status = r.status, version = r.version, priority = r.priority,
       tier_weight = r.tier_weight, queue_key = r.queue_key, queued_at = r.queued_at, attempt = r.attempt,
       failures = r.failures, rejections = r.rejections, not_before = r.not_before, wake_at = r.wake_at,
       paused_at = r.paused_at, waited_us = r.waited_us, waiting_since = r.waiting_since, scheduled_at = r.scheduled_at, started_at = r.started_at,
       finished_at = r.finished_at, pool = r.pool, workers = r.workers, pools = r.pools,
       pools_attempt = CASE WHEN r.pools IS NOT NULL THEN r.attempt END, score = r.score, reason = r.reason,
       message = r.message, excluded = r.excluded, changed = pg_current_xact_id(), writer = %(writer)s,
       reasons = CASE WHEN s.status = r.status THEN s.reasons ELSE '[]' END
  FROM jsonb_to_recordset(%(records)s::jsonb) AS r ({{state_record}})
 WHERE s.id = r.id;

-- name: insert_events
INSERT INTO workload_events (workload_id, at, event, from_phase, to_phase, attempt, workers, score, reason, message,
                             reasons, epoch, cycle)
SELECT workload_id, %(at)s, event, from_phase, to_phase, attempt, workers, score, reason, message, reasons,
       %(epoch)s, cycle
  FROM jsonb_to_recordset(%(records)s::jsonb)
       AS r (workload_id uuid, event text, from_phase text, to_phase text, attempt integer, workers text[],
             score real, reason text, message text, reasons jsonb, cycle bigint);

-- name: upsert_attempts
INSERT INTO attempts AS a (workload_id, attempt, workers, pool, pools, score, epoch, scheduled_at, started_at,
                           finished_at, outcome, reason)
SELECT workload_id, attempt, workers, pool, pools, score, %(epoch)s, scheduled_at, started_at, finished_at, outcome,
       reason
  FROM jsonb_to_recordset(%(records)s::jsonb)
       AS r (workload_id uuid, attempt integer, workers text[], pool text, pools text[], score real,
             scheduled_at timestamptz, started_at timestamptz, finished_at timestamptz, outcome text, reason text)
    ON CONFLICT (workload_id, attempt) DO UPDATE
   SET started_at = excluded.started_at, finished_at = excluded.finished_at, outcome = excluded.outcome,
       reason = excluded.reason;

-- name: add_counters
-- Last in its transaction, and ordered, because all writers for the customer share these rows.
INSERT INTO queue_counters AS c (customer_id, class_id, pending, held, suspended, scheduled, running, succeeded,
                                 failed, cancelled)
SELECT customer_id, class_id, coalesce(pending, 0), coalesce(held, 0), coalesce(suspended, 0),
       coalesce(scheduled, 0), coalesce(running, 0), coalesce(succeeded, 0), coalesce(failed, 0),
       coalesce(cancelled, 0)
  FROM jsonb_to_recordset(%(records)s::jsonb)
       AS r (customer_id text, class_id text, pending bigint, held bigint, suspended bigint, scheduled bigint,
             running bigint, succeeded bigint, failed bigint, cancelled bigint)
 ORDER BY customer_id, class_id
    ON CONFLICT (customer_id, class_id) DO UPDATE
   SET pending = c.pending + excluded.pending, held = c.held + excluded.held,
       suspended = c.suspended + excluded.suspended, scheduled = c.scheduled + excluded.scheduled,
       running = c.running + excluded.running, succeeded = c.succeeded + excluded.succeeded,
       failed = c.failed + excluded.failed, cancelled = c.cancelled + excluded.cancelled;

-- name: note_pending
WITH note AS (
    SELECT * FROM jsonb_to_recordset(%(records)s::jsonb)
           AS r (id uuid, version bigint, reason text, message text, reasons jsonb)
), prior AS (
    SELECT s.id, s.status, s.attempt, s.reason AS old_reason, note.reason, note.message, note.reasons
      FROM workload_state s JOIN note ON note.id = s.id
     WHERE s.version = note.version AND s.status IN ('PENDING', 'HELD', 'SCHEDULED', 'RUNNING', 'SUSPENDED')
       AND (s.reason, s.message, s.reasons) IS DISTINCT FROM (note.reason, note.message, note.reasons)
     ORDER BY s.id
       FOR NO KEY UPDATE OF s
), written AS (
    UPDATE workload_state s
       SET reason = prior.reason, message = prior.message, reasons = prior.reasons, changed = pg_current_xact_id(),
           writer = coalesce(%(epoch)s, 0)
      FROM prior
     WHERE s.id = prior.id
    RETURNING s.id
), audited AS (
    INSERT INTO workload_events (workload_id, at, event, from_phase, to_phase, attempt, reason, message, reasons, epoch)
    SELECT id, clock_timestamp(), 'Noted', status, status, attempt, reason, message, reasons, %(epoch)s
      FROM prior
     WHERE old_reason <> reason
)
SELECT id::text FROM written;

-- name: set_wake
-- Keeps `writer`: readers may not have seen the change of the previous writer yet.
WITH locked AS (
    SELECT id FROM workload_state WHERE id = ANY(%(ids)s::uuid[]) ORDER BY id FOR NO KEY UPDATE
)
UPDATE workload_state s
   SET wake_at = clock_timestamp() + %(seconds)s::float8 * interval '1 second', changed = pg_current_xact_id()
  FROM locked
 WHERE s.id = locked.id;

-- name: reassign_spec
-- The class names the customer, so it is computed anew.
UPDATE workloads SET customer_id = %(customer)s, queue_base = NULL WHERE id = %(id)s;

-- name: reassign_state
UPDATE workload_state SET customer_id = %(customer)s, queue_class = NULL WHERE id = %(id)s;

-- name: lock_customer_rows
-- A page of a customer's unfinished rows, for a new tier.
SELECT {{workload_without_spec_row}}
  FROM workload_state s JOIN workloads w USING (id)
 WHERE s.customer_id = %(customer)s AND s.id > %(after)s::uuid
   AND (s.status IN ('PENDING', 'HELD', 'SCHEDULED', 'RUNNING', 'SUSPENDED') OR s.wake_at IS NOT NULL)
   AND s.status IN ('PENDING', 'HELD', 'SCHEDULED', 'RUNNING', 'SUSPENDED')
 ORDER BY s.id
 LIMIT %(limit)s
   FOR NO KEY UPDATE OF s;

-- name: set_object
UPDATE workloads SET object_uid = %(uid)s, object_name = %(name)s WHERE id = %(id)s;
