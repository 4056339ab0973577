-- name: lock_customers
-- Serialises transactions that check the limits of these customers. Ordered, and always the first lock.
SELECT pg_advisory_xact_lock(1313434940, hash)
  FROM (SELECT DISTINCT hashtext(name) AS hash FROM unnest(%(customers)s::text[]) AS name ORDER BY 1) AS keys;

-- name: customer_depths
-- A separate statement, so that it sees commits from the time of waiting for the lock.
SELECT customer_id, sum(pending)::bigint, sum(pending + held + suspended)::bigint
  FROM {{customer_parts}}
 WHERE customer_id = ANY(%(customers)s::text[])
 GROUP BY customer_id;

-- name: lock_full
-- The first workloads in queue order that are held because the queue is full.
SELECT {{workload_without_spec_row}}
  FROM workload_state s JOIN workloads w USING (id)
 WHERE s.status = 'HELD' AND s.reason = 'QueueFull' AND s.customer_id = %(customer)s
   AND s.id <> ALL(%(seen)s::uuid[])
 ORDER BY s.queue_key DESC, s.queued_at, s.id
 LIMIT %(limit)s
   FOR NO KEY UPDATE OF s;

-- name: lock_rest_rows
-- A customer's REST rows of a phase, in queue order.
SELECT {{workload_without_spec_row}}
  FROM workload_state s JOIN workloads w USING (id)
 WHERE s.customer_id = %(customer)s AND s.status = %(status)s AND s.door = 'rest'
   AND (%(reasons)s::text[] IS NULL OR s.reason = ANY(%(reasons)s::text[]))
   AND (%(not_reason)s::text IS NULL OR s.reason <> %(not_reason)s)
   AND (%(namespaces)s::text[] IS NULL OR w.namespace = ANY(%(namespaces)s::text[]))
   AND s.id <> ALL(%(seen)s::uuid[])
 ORDER BY s.queue_key DESC, s.queued_at, s.id
 LIMIT %(limit)s
   FOR NO KEY UPDATE OF s;

-- name: free_names
DELETE FROM rest_names WHERE id = ANY(%(ids)s::uuid[]);
