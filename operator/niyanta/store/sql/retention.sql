-- name: finished_rows
-- A page of the rows whose retention is over, oldest first, with the UIDs of their objects.
SELECT s.id::text, s.finished_at, CASE WHEN w.door = 'kubernetes' THEN w.id::text ELSE w.object_uid END AS object_uid
  FROM workload_state s JOIN workloads w USING (id)
 WHERE s.status IN ('SUCCEEDED', 'FAILED', 'CANCELLED')
   AND s.finished_at < now() - %(days)s::integer * interval '1 day'
   AND (s.finished_at, s.id) > (%(after_at)s::timestamptz, %(after_id)s::uuid)
 ORDER BY s.finished_at, s.id
 LIMIT %(limit)s;

-- name: lock_finished_rows
-- Rows that another transaction has locked are left to the next pass.
SELECT s.id::text, s.created_at, s.finished_at
  FROM workload_state s
 WHERE s.id = ANY(%(ids)s::uuid[]) AND s.status IN ('SUCCEEDED', 'FAILED', 'CANCELLED')
   AND s.finished_at < now() - %(days)s::integer * interval '1 day'
 ORDER BY s.id
   FOR UPDATE SKIP LOCKED;

-- name: delete_events_of
-- The times limit the partitions that are read. Events of later edits go with the partition of their day.
DELETE FROM workload_events
 WHERE workload_id = ANY(%(ids)s::uuid[]) AND at BETWEEN %(since)s::timestamptz AND %(until)s::timestamptz;

-- name: delete_attempts_of
DELETE FROM attempts WHERE workload_id = ANY(%(ids)s::uuid[]);

-- name: delete_names_of
-- A finished submission keeps no name, but one that stayed behind would never be free without its row.
DELETE FROM rest_names WHERE id = ANY(%(ids)s::uuid[]);

-- name: delete_rows
-- Their states go with them.
DELETE FROM workloads WHERE id = ANY(%(ids)s::uuid[]);
