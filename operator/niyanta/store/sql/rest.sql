-- name: door_claim_keys
SELECT customer, idempotency_key FROM door_claim_keys(%(records)s::jsonb);

-- name: door_answers
SELECT customer, idempotency_key, body_hash, status, response FROM door_answers(%(customers)s::text[], %(keys)s::text[]);

-- name: door_choose
SELECT id, refusal, depth FROM door_choose(%(items)s::jsonb, %(limits)s::jsonb);

-- name: door_submit
SELECT door_submit(%(items)s::jsonb, %(answers)s::jsonb, %(forgotten)s::jsonb);

-- name: door_move
SELECT status, moved FROM door_move(%(id)s, %(event)s);

-- name: door_prune
SELECT door_prune();

-- name: transaction_start
SELECT (extract(epoch FROM now()) * 1000000)::bigint;

-- name: list_of
-- A page by keyset: the newest of each customer and phase asked for, merged.
SELECT found.id::text, found.created_at, w.type, w.namespace
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
SELECT w.id::text, w.created_at, w.type, w.namespace FROM workloads w
 WHERE w.created_at >= %(since)s::timestamptz AND (w.created_at, w.id) < (%(at)s::timestamptz, %(id)s::uuid)
 ORDER BY w.created_at DESC, w.id DESC
 LIMIT %(limit)s;

-- name: list_named
-- The same for a name, which may be that of a submission's Workload object: the submission's name and a suffix.
SELECT found.id::text, found.created_at, found.type, found.namespace
  FROM unnest(%(customers)s::text[]) AS customer (id) CROSS JOIN unnest(%(stems)s::text[]) AS called (name)
 CROSS JOIN LATERAL (
       SELECT w.id, w.created_at, w.type, w.namespace FROM workloads w JOIN workload_state s ON s.id = w.id
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

-- name: waiting_by_customer
SELECT customer_id, sum(pending + held + suspended)::bigint FROM {{customer_parts}} GROUP BY customer_id;

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

-- name: live_key
SELECT {{api_key_row}} FROM door_api_key(%(prefix)s, %(hash)s);

-- name: rate_acquire
SELECT door_rate_acquire(%(key)s, %(limit)s, %(expiry)s, %(amount)s);

-- name: rate_window
SELECT * FROM door_rate_window(%(key)s, %(expiry)s);

-- name: hint
SELECT pg_notify('niyanta_changes', '');
