-- name: rows_by_id
SELECT {{workload_row}} FROM workload_state s JOIN workloads w USING (id) WHERE s.id = ANY(%(ids)s::uuid[]) ORDER BY s.id;

-- name: rows_without_spec
-- Specs may be large, and lists of workloads show none.
SELECT {{workload_row}}
  FROM workload_state s
  JOIN (SELECT id, customer_id, door, namespace, name, type, labels, generation, '{}'::jsonb AS spec, class_id, replicas,
               object_uid, object_name, coalesce(spec_bytes, 0) AS spec_bytes
          FROM workloads) w USING (id)
 WHERE s.id = ANY(%(ids)s::uuid[])
 ORDER BY s.id;

-- name: rows_by_worker
SELECT {{workload_without_spec_row}} FROM workload_state s JOIN workloads w USING (id)
 WHERE s.workers @> ARRAY[%(worker)s]::text[] AND s.status IN ('SCHEDULED', 'RUNNING')
 ORDER BY s.id;

-- name: rows_due
SELECT {{workload_without_spec_row}} FROM workload_state s JOIN workloads w USING (id)
 WHERE s.wake_at <= clock_timestamp()
 ORDER BY s.wake_at
 LIMIT %(limit)s;

-- name: rows_active
SELECT {{workload_without_spec_row}} FROM workload_state s JOIN workloads w USING (id)
 WHERE (s.status IN ('PENDING', 'HELD', 'SCHEDULED', 'RUNNING', 'SUSPENDED') OR s.wake_at IS NOT NULL)
   AND s.id > %(after)s::uuid
 ORDER BY s.id
 LIMIT %(limit)s;

-- name: rows_tracked
-- rows_active without the waiting REST submissions.
SELECT {{workload_without_spec_row}} FROM workload_state s JOIN workloads w USING (id)
 WHERE (s.status IN ('SCHEDULED', 'RUNNING') OR s.wake_at IS NOT NULL
        OR (s.door = 'kubernetes' AND s.status IN ('PENDING', 'HELD', 'SUSPENDED')))
   AND s.id > %(after)s::uuid
 ORDER BY s.id
 LIMIT %(limit)s;

-- name: change_snapshot
-- Transactions below the first number have ended, except those in the list.
SELECT pg_snapshot_xmax(now)::text::bigint, ARRAY(SELECT pg_snapshot_xip(now)::text::bigint)
  FROM pg_current_snapshot() AS now;

-- name: changes_window
SELECT {{workload_without_spec_row}}, s.changed::text::bigint
  FROM workload_state s JOIN workloads w USING (id)
 WHERE (s.changed, s.id) > (%(xid)s::text::xid8, %(id)s::uuid) AND s.changed < %(end)s::text::xid8
   AND (%(not_by)s::bigint IS NULL OR s.writer <> %(not_by)s)
 ORDER BY s.changed, s.id
 LIMIT %(limit)s;

-- name: changes_late
-- Changes of transactions that were in progress when the rows around them were read.
SELECT {{workload_without_spec_row}}, s.changed::text::bigint
  FROM workload_state s JOIN workloads w USING (id)
 WHERE s.changed = ANY(%(ended)s::text[]::xid8[])
   AND NOT (s.changed = %(xid)s::text::xid8 AND s.id <= %(id)s::uuid)
   AND (%(not_by)s::bigint IS NULL OR s.writer <> %(not_by)s)
 ORDER BY s.changed, s.id
 LIMIT %(limit)s;

-- name: horizon_age
-- Oldest transaction in progress, end of the snapshot, and age of the oldest transaction whose start this role may see.
SELECT pg_snapshot_xmin(now)::text::bigint, pg_snapshot_xmax(now)::text::bigint,
       (SELECT max(extract(epoch FROM clock_timestamp() - a.xact_start))::float8
          FROM pg_stat_activity a
         WHERE a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
           AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL))
  FROM pg_current_snapshot() AS now;

-- name: events_of
SELECT {{event_row}}
  FROM workload_events
 WHERE workload_id = %(id)s
 ORDER BY at, id;

-- name: attempts_of
SELECT {{attempt_row}}
  FROM attempts
 WHERE workload_id = %(id)s
 ORDER BY attempt;

-- name: queue_depth
SELECT customer_id, sum(pending)::bigint, sum(held)::bigint, sum(suspended)::bigint, sum(scheduled)::bigint,
       sum(running)::bigint, sum(succeeded)::bigint, sum(failed)::bigint, sum(cancelled)::bigint
  FROM {{customer_parts}}
 WHERE %(customer)s::text IS NULL OR customer_id = %(customer)s
 GROUP BY customer_id;

-- name: counters_wrong
-- Counters that differ from the rows, in one snapshot. Reads every row: for tests and repairs. Finished workloads are
-- counted for all times, so with `rows_deleted` there may be more of them than rows.
WITH counted AS (
    SELECT customer_id, CASE WHEN status IN ('SUCCEEDED', 'FAILED', 'CANCELLED') THEN '' ELSE class_id END AS class_id,
           count(*) FILTER (WHERE status = 'PENDING') AS pending, count(*) FILTER (WHERE status = 'HELD') AS held,
           count(*) FILTER (WHERE status = 'SUSPENDED') AS suspended,
           count(*) FILTER (WHERE status = 'SCHEDULED') AS scheduled,
           count(*) FILTER (WHERE status = 'RUNNING') AS running,
           count(*) FILTER (WHERE status = 'SUCCEEDED') AS succeeded,
           count(*) FILTER (WHERE status = 'FAILED') AS failed,
           count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled
      FROM workload_state GROUP BY 1, 2
), kept AS (
    SELECT * FROM queue_counters
     WHERE (pending, held, suspended, scheduled, running, succeeded, failed, cancelled) <> (0, 0, 0, 0, 0, 0, 0, 0)
)
SELECT customer_id, class_id, to_jsonb(kept) AS kept, to_jsonb(counted) AS counted
  FROM kept FULL JOIN counted USING (customer_id, class_id)
 WHERE (kept.pending, kept.held, kept.suspended, kept.scheduled, kept.running, kept.succeeded, kept.failed,
        kept.cancelled) IS DISTINCT FROM
       (counted.pending, counted.held, counted.suspended, counted.scheduled, counted.running, counted.succeeded,
        counted.failed, counted.cancelled)
   AND NOT (%(rows_deleted)s AND class_id = '' AND kept.succeeded >= coalesce(counted.succeeded, 0)
            AND kept.failed >= coalesce(counted.failed, 0) AND kept.cancelled >= coalesce(counted.cancelled, 0));

-- name: counters_prune
DELETE FROM queue_counters
 WHERE class_id <> '' AND (pending, held, suspended, scheduled, running) = (0, 0, 0, 0, 0);
