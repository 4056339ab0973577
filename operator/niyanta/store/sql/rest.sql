-- name: idempotency_claim
-- Waits for another transaction with the same key. Returns no row for a key that was used within 24 hours.
INSERT INTO idempotency AS i (customer_id, key, body_hash, created_at)
SELECT customer_id, key, decode(body_hash, 'hex'), clock_timestamp()
  FROM jsonb_to_recordset(%(records)s::jsonb) AS r (customer_id text, key text, body_hash text)
 ORDER BY customer_id, key
    ON CONFLICT (customer_id, key) DO UPDATE
   SET body_hash = excluded.body_hash, status = NULL, response = NULL, created_at = excluded.created_at
 WHERE i.created_at < clock_timestamp() - interval '24 hours'
RETURNING customer_id, key;

-- name: idempotency_found
SELECT customer_id, key, encode(body_hash, 'hex'), status, response
  FROM idempotency
 WHERE (customer_id, key) IN (SELECT * FROM unnest(%(customers)s::text[], %(keys)s::text[]))
   AND status IS NOT NULL AND created_at >= clock_timestamp() - interval '24 hours';

-- name: idempotency_keep
UPDATE idempotency i
   SET status = r.status, response = r.response
  FROM jsonb_to_recordset(%(records)s::jsonb) AS r (customer_id text, key text, status integer, response jsonb)
 WHERE i.customer_id = r.customer_id AND i.key = r.key;

-- name: idempotency_forget
DELETE FROM idempotency
 WHERE (customer_id, key) IN (SELECT * FROM unnest(%(customers)s::text[], %(keys)s::text[]));

-- name: idempotency_prune
DELETE FROM idempotency WHERE created_at < now() - interval '24 hours';

-- name: take_names
-- The name of a finished workload is free, however it finished. Ordered, so that two batches cannot deadlock.
INSERT INTO rest_names AS n (customer_id, name, id)
SELECT customer_id, name, id
  FROM jsonb_to_recordset(%(records)s::jsonb) AS r (customer_id text, name text, id uuid)
 ORDER BY customer_id, name
    ON CONFLICT (customer_id, name) DO UPDATE SET id = excluded.id
 WHERE EXISTS (SELECT 1 FROM workload_state s
                WHERE s.id = n.id AND s.status IN ('SUCCEEDED', 'FAILED', 'CANCELLED'))
RETURNING id::text;

-- name: set_suspend
UPDATE workloads
   SET spec = jsonb_set(spec, '{suspend}', to_jsonb(%(suspend)s::boolean)), generation = generation + 1
 WHERE id = %(id)s
RETURNING spec, generation;

-- name: list_of
-- A page by keyset: the newest of each customer and phase asked for, merged.
SELECT found.id::text, found.created_at, w.type
  FROM unnest(%(customers)s::text[]) AS customer (id) CROSS JOIN unnest(%(statuses)s::text[]) AS phase (status)
 CROSS JOIN LATERAL (
       SELECT s.id, s.created_at FROM workload_state s
        WHERE s.customer_id = customer.id AND s.status = phase.status AND s.created_at >= %(since)s::timestamptz
          AND (s.created_at, s.id) < (%(at)s::timestamptz, %(id)s::uuid)
        ORDER BY s.created_at DESC, s.id DESC LIMIT %(limit)s) AS found
  JOIN workloads w ON w.id = found.id
 ORDER BY found.created_at DESC, found.id DESC
 LIMIT %(limit)s;

-- name: list_all
SELECT w.id::text, w.created_at, w.type FROM workloads w
 WHERE w.created_at >= %(since)s::timestamptz AND (w.created_at, w.id) < (%(at)s::timestamptz, %(id)s::uuid)
 ORDER BY w.created_at DESC, w.id DESC
 LIMIT %(limit)s;

-- name: list_named
-- The same for a name, which may be that of a submission's Workload object: the submission's name and a suffix.
SELECT found.id::text, found.created_at, found.type
  FROM unnest(%(customers)s::text[]) AS customer (id) CROSS JOIN unnest(%(stems)s::text[]) AS called (name)
 CROSS JOIN LATERAL (
       SELECT w.id, w.created_at, w.type FROM workloads w JOIN workload_state s ON s.id = w.id
        WHERE w.customer_id = customer.id AND w.name = called.name
          AND (w.name = %(name)s OR w.object_name = %(name)s)
          AND s.status = ANY(%(statuses)s::text[]) AND w.created_at >= %(since)s::timestamptz
          AND (w.created_at, w.id) < (%(at)s::timestamptz, %(id)s::uuid)
        ORDER BY w.created_at DESC, w.id DESC LIMIT %(limit)s) AS found
 ORDER BY found.created_at DESC, found.id DESC
 LIMIT %(limit)s;

-- name: counted_customers
SELECT DISTINCT customer_id FROM queue_counters;

-- name: events_page
SELECT {{event_row}}
  FROM workload_events
 WHERE workload_id = %(id)s AND (at, id) > (%(at)s::timestamptz, %(after)s::bigint)
 ORDER BY at, id
 LIMIT %(limit)s;

-- name: reasons_of
SELECT reasons FROM workload_state WHERE id = %(id)s;

-- name: ahead
-- Number of workloads before a position in the queue, counted up to a bound.
SELECT count(*)
  FROM (SELECT 1 FROM workload_state s
         WHERE s.status = 'PENDING' AND s.queue_key >= %(key)s
           AND (s.queue_key > %(key)s OR (s.queued_at, s.id) < (%(queued_at)s::timestamptz, %(id)s::uuid))
         LIMIT %(most)s) AS before;

-- name: oldest_pending
SELECT (extract(epoch FROM clock_timestamp() - queued_at))::float8
  FROM workload_state
 WHERE status = 'PENDING'
 ORDER BY queued_at, id
 LIMIT 1;

-- name: oldest_pending_of
-- Steps along the listing index from priority to priority (0 to 100), so the cost does not depend on the backlog.
WITH RECURSIVE step AS (
    (SELECT priority, created_at FROM workload_state
      WHERE status = 'PENDING' AND customer_id = %(customer)s
      ORDER BY customer_id, priority DESC, created_at LIMIT 1)
    UNION ALL
    SELECT next.priority, next.created_at
      FROM step CROSS JOIN LATERAL (
           SELECT priority, created_at FROM workload_state
            WHERE status = 'PENDING' AND customer_id = %(customer)s AND priority < step.priority
            ORDER BY customer_id, priority DESC, created_at LIMIT 1) AS next
)
SELECT (extract(epoch FROM clock_timestamp() - min(created_at)))::float8 FROM step HAVING count(*) > 0;

-- name: waiting_total
SELECT coalesce(sum(pending + held + suspended), 0)::bigint FROM queue_counters;

-- name: add_key
INSERT INTO api_keys (customer_id, role, name, prefix, hash, expires_at)
VALUES (%(customer)s, %(role)s, %(name)s, %(prefix)s, decode(%(hash)s, 'hex'),
        clock_timestamp() + %(days)s::float8 * interval '1 day')
RETURNING {{api_key_row}};

-- name: keys
SELECT {{api_key_row}}
  FROM api_keys
 WHERE %(customer)s::text IS NULL OR customer_id = %(customer)s
 ORDER BY customer_id, created_at, id;

-- name: revoke_key
UPDATE api_keys SET revoked_at = clock_timestamp() WHERE (id::text = %(id)s OR prefix = %(id)s) AND revoked_at IS NULL
RETURNING {{api_key_row}};

-- name: expiring_keys
SELECT count(*)
  FROM api_keys
 WHERE revoked_at IS NULL
   AND expires_at > clock_timestamp() AND expires_at <= clock_timestamp() + %(days)s::float8 * interval '1 day';

-- name: live_keys
SELECT {{api_key_row}}, encode(hash, 'hex')
  FROM api_keys
 WHERE prefix = %(prefix)s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp());

-- name: rate_acquire
-- Sliding window of two counters. The row lock of the current one makes it exact. It takes either the whole amount or nothing.
WITH clock AS (
    SELECT extract(epoch FROM clock_timestamp())::float8 / %(expiry)s AS at
), place AS (
    SELECT floor(at)::bigint AS window, 1 - (at - floor(at)) AS left_over FROM clock
), before AS (
    SELECT coalesce(max(w.amount), 0) * max(place.left_over) AS weight
      FROM place LEFT JOIN rate_windows w ON w.key = %(key)s || '/' || (place.window - 1)
)
INSERT INTO rate_windows AS w (key, amount, expires_at)
SELECT %(key)s || '/' || place.window, %(amount)s, clock_timestamp() + 2 * %(expiry)s * interval '1 second'
  FROM place, before
 WHERE before.weight + %(amount)s <= %(limit)s
    ON CONFLICT (key) DO UPDATE SET amount = w.amount + excluded.amount
 WHERE (SELECT weight FROM before) + w.amount + excluded.amount <= %(limit)s
RETURNING amount;

-- name: rate_window
WITH clock AS (
    SELECT extract(epoch FROM clock_timestamp())::float8 / %(expiry)s AS at
)
SELECT coalesce((SELECT amount FROM rate_windows WHERE key = %(key)s || '/' || (floor(at)::bigint - 1)), 0),
       ((1 - (at - floor(at))) * %(expiry)s)::float8,
       coalesce((SELECT amount FROM rate_windows WHERE key = %(key)s || '/' || floor(at)::bigint), 0),
       ((2 - (at - floor(at))) * %(expiry)s)::float8
  FROM clock;

-- name: rate_prune
DELETE FROM rate_windows WHERE expires_at < clock_timestamp();

-- name: hint
SELECT pg_notify('niyanta_changes', '');
