-- Queue classes: counts, heads, states, compiled requirements. The counts are exact, because what is folded and the
-- deltas are read in one snapshot.

-- fragment: class_counts
SELECT customer_id, queue_class, sum(pending)::bigint AS pending, sum(pending_rest)::bigint AS pending_rest
  FROM (SELECT customer_id, queue_class, pending, pending_rest FROM queue_class_counts
         UNION ALL
        SELECT customer_id, queue_class, pending, pending_rest FROM queue_class_deltas WHERE queue_class <> '') AS part

-- fragment: customer_parts
(SELECT customer_id, pending, held, suspended, scheduled, running, succeeded, failed, cancelled FROM customer_counts
  UNION ALL
 SELECT customer_id, pending, held, suspended, scheduled, running, succeeded, failed, cancelled
   FROM queue_class_deltas) AS part

-- fragment: described_classes
-- Namespace and replicas are those of every row of the class.
SELECT page.customer_id, page.queue_class, w.namespace, w.replicas, page.pending, page.pending_rest,
       (extract(epoch FROM oldest.queued_at) * 1000000)::bigint,
       (SELECT s.queue_key FROM workload_state s
         WHERE s.status = 'PENDING' AND s.door = 'rest' AND s.customer_id = page.customer_id
           AND s.queue_class = page.queue_class
         ORDER BY s.queue_key DESC LIMIT 1)
  FROM page
 CROSS JOIN LATERAL (
       SELECT first.id, first.queued_at
         FROM (VALUES ('rest'), ('kubernetes')) AS d (door)
        CROSS JOIN LATERAL (
              SELECT s.id, s.queued_at FROM workload_state s
               WHERE s.status = 'PENDING' AND s.customer_id = page.customer_id AND s.queue_class = page.queue_class
                 AND s.door = d.door
               ORDER BY s.queued_at, s.id LIMIT 1) AS first
        ORDER BY first.queued_at LIMIT 1) AS oldest
  JOIN workloads w ON w.id = oldest.id
 ORDER BY page.customer_id, page.queue_class

-- name: waiting_classes
-- A page of the classes with pending rows.
WITH page AS MATERIALIZED (
    {{class_counts}}
     WHERE (customer_id, queue_class) > (%(after_customer)s, %(after_class)s)
     GROUP BY customer_id, queue_class
    HAVING sum(pending) > 0
     ORDER BY customer_id, queue_class
     LIMIT %(limit)s
)
{{described_classes}};

-- name: waiting_classes_of
-- The same for classes by name.
WITH wanted AS MATERIALIZED (
    SELECT customer, queue_class FROM jsonb_to_recordset(%(records)s::jsonb) AS r (customer text, queue_class text)
), page AS MATERIALIZED (
    SELECT part.customer_id, part.queue_class, sum(part.pending)::bigint AS pending,
           sum(part.pending_rest)::bigint AS pending_rest
      FROM (SELECT c.customer_id, c.queue_class, c.pending, c.pending_rest
              FROM queue_class_counts c
              JOIN wanted w ON w.customer = c.customer_id AND w.queue_class = c.queue_class
             UNION ALL
            SELECT d.customer_id, d.queue_class, d.pending, d.pending_rest
              FROM queue_class_deltas d
              JOIN wanted w ON w.customer = d.customer_id AND w.queue_class = d.queue_class) AS part
     GROUP BY part.customer_id, part.queue_class
    HAVING sum(part.pending) > 0
)
{{described_classes}};

-- name: class_heads
SELECT r.customer, r.queue_class,
       ARRAY(SELECT s.id::text FROM workload_state s
              WHERE s.status = 'PENDING' AND s.door = 'rest' AND s.customer_id = r.customer
                AND s.queue_class = r.queue_class AND (s.not_before IS NULL OR s.not_before <= clock_timestamp())
              ORDER BY s.queue_key DESC, s.queued_at, s.id LIMIT r.most),
       (SELECT s.id::text FROM workload_state s
         WHERE s.status = 'PENDING' AND s.door = 'rest' AND s.customer_id = r.customer
           AND s.queue_class = r.queue_class AND (s.not_before IS NULL OR s.not_before <= clock_timestamp())
         ORDER BY s.queued_at, s.id LIMIT 1),
       (SELECT s.id::text FROM workload_state s
         WHERE s.status = 'PENDING' AND s.door = 'rest' AND s.customer_id = r.customer
           AND s.queue_class = r.queue_class AND (s.not_before IS NULL OR s.not_before <= clock_timestamp())
         ORDER BY s.priority DESC, s.queued_at LIMIT 1)
  FROM jsonb_to_recordset(%(records)s::jsonb) AS r (customer text, queue_class text, most integer);

-- name: unclassed
SELECT {{workload_row}} FROM workload_state s JOIN workloads w USING (id)
 WHERE s.status = 'PENDING' AND s.queue_class IS NULL
 ORDER BY s.id
 LIMIT %(limit)s;

-- name: set_queue_bases
-- Rows that were edited meanwhile, or have a base, are left alone.
UPDATE workloads w SET queue_base = r.base
  FROM jsonb_to_recordset(%(records)s::jsonb) AS r (id uuid, generation bigint, customer text, base text)
 WHERE w.id = r.id AND w.generation = r.generation AND w.customer_id = r.customer AND w.queue_base IS NULL
RETURNING w.id::text;

-- name: tell_changed
-- `writer` 0, so that the leader reads the rows as changes.
UPDATE workload_state SET changed = pg_current_xact_id(), writer = 0 WHERE id = ANY(%(ids)s::uuid[]);

-- name: rekey_begin
-- Every writer has a transaction number before it computes classes, so that those that may have missed a key that is
-- visible now are below this snapshot's end.
UPDATE visible_label_keys SET horizon = pg_snapshot_xmax(pg_current_snapshot())
 WHERE horizon IS NULL AND rekeyed IS NOT NULL;

-- name: rekey_next
-- The first key whose rows can be changed for good.
SELECT reach, key, rekeyed::text
  FROM visible_label_keys
 WHERE rekeyed IS NOT NULL AND horizon <= pg_snapshot_xmin(pg_current_snapshot())
 ORDER BY added_at, reach, key
 LIMIT 1
   FOR UPDATE;

-- name: rekey_slice
-- Ids of the next slice of all unfinished rows.
SELECT s.id::text FROM workload_state s
 WHERE s.id > %(after)s::uuid AND s.status IN ('PENDING', 'HELD', 'SCHEDULED', 'RUNNING', 'SUSPENDED')
   AND (s.status IN ('PENDING', 'HELD', 'SCHEDULED', 'RUNNING', 'SUSPENDED') OR s.wake_at IS NOT NULL)
 ORDER BY s.id
 LIMIT %(limit)s;

-- name: rekey_lock
-- A statement of its own, so that the next one sees edits that commit while it waits for a row.
SELECT s.id::text
  FROM workload_state s JOIN workloads w USING (id)
 WHERE s.id = ANY(%(ids)s::uuid[]) AND s.queue_class IS NOT NULL
   AND (w.labels ? %(key)s
        -- Beyond 64 keys all labels are visible (migration 0015).
        OR (w.labels <> '{}' AND (SELECT count(*) FROM visible_label_keys v WHERE v.reach = %(reach)s) > 64))
   AND %(reach)s IN ('*', 'namespace/' || w.namespace, 'customer/' || w.customer_id)
 ORDER BY s.id
   FOR NO KEY UPDATE OF s;

-- name: rekey_rows
UPDATE workload_state s
   SET queue_class = operator_queue_class(w.queue_base, w.customer_id, w.namespace, w.labels),
       changed = pg_current_xact_id(), writer = 0
  FROM workloads w
 WHERE w.id = s.id AND s.id = ANY(%(ids)s::uuid[]);

-- name: rekey_progress
UPDATE visible_label_keys SET rekeyed = %(last)s::uuid WHERE reach = %(reach)s AND key = %(key)s;

-- name: rekey_open
SELECT EXISTS (SELECT 1 FROM visible_label_keys WHERE rekeyed IS NOT NULL);

-- name: fold_counts
WITH taken AS (
    DELETE FROM queue_class_deltas
     WHERE id IN (SELECT id FROM queue_class_deltas ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
    RETURNING *
), classes AS (
    INSERT INTO queue_class_counts AS c (customer_id, queue_class, pending, pending_rest, emptied_at)
    SELECT customer_id, queue_class, sum(pending), sum(pending_rest),
           CASE WHEN sum(pending) = 0 THEN clock_timestamp() END
      FROM taken WHERE queue_class <> '' GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (customer_id, queue_class) DO UPDATE
       SET pending = c.pending + excluded.pending, pending_rest = c.pending_rest + excluded.pending_rest,
           emptied_at = CASE WHEN c.pending + excluded.pending = 0 THEN clock_timestamp() END
), customers AS (
    INSERT INTO customer_counts AS c
    SELECT customer_id, sum(pending), sum(held), sum(suspended), sum(scheduled), sum(running), sum(succeeded),
           sum(failed), sum(cancelled)
      FROM taken GROUP BY 1 ORDER BY 1
        ON CONFLICT (customer_id) DO UPDATE
       SET pending = c.pending + excluded.pending, held = c.held + excluded.held,
           suspended = c.suspended + excluded.suspended, scheduled = c.scheduled + excluded.scheduled,
           running = c.running + excluded.running, succeeded = c.succeeded + excluded.succeeded,
           failed = c.failed + excluded.failed, cancelled = c.cancelled + excluded.cancelled
)
SELECT count(*) FROM taken;

-- name: class_counts_wrong
-- Counts that differ from the rows. Reads every row: for tests and repairs.
WITH kept AS (
    {{class_counts}} GROUP BY customer_id, queue_class HAVING (sum(pending), sum(pending_rest)) <> (0, 0)
), counted AS (
    SELECT customer_id, queue_class, count(*) AS pending, count(*) FILTER (WHERE door = 'rest') AS pending_rest
      FROM workload_state WHERE status = 'PENDING' AND queue_class IS NOT NULL GROUP BY 1, 2
)
SELECT customer_id, queue_class, to_jsonb(kept), to_jsonb(counted)
  FROM kept FULL JOIN counted USING (customer_id, queue_class)
 WHERE (kept.pending, kept.pending_rest) IS DISTINCT FROM (counted.pending, counted.pending_rest);

-- name: write_class_states
INSERT INTO class_states AS c (customer_id, queue_class, reasons, reason, message, since, positions)
SELECT customer, queue_class, reasons, reason, message, since, positions
  FROM jsonb_to_recordset(%(records)s::jsonb)
       AS r (customer text, queue_class text, reasons jsonb, reason text, message text, since timestamptz,
             positions jsonb)
 ORDER BY 1, 2
    ON CONFLICT (customer_id, queue_class) DO UPDATE
   SET reasons = excluded.reasons, reason = excluded.reason, message = excluded.message, since = excluded.since,
       positions = excluded.positions;

-- name: delete_class_states
DELETE FROM class_states
 WHERE (customer_id, queue_class) IN (SELECT * FROM unnest(%(customers)s::text[], %(classes)s::text[]));

-- name: class_states_of
SELECT customer_id, queue_class, reasons, reason, message, since, positions
  FROM class_states
 WHERE (customer_id, queue_class) IN (SELECT * FROM unnest(%(customers)s::text[], %(classes)s::text[]));

-- name: class_count
SELECT pending FROM ({{class_counts}}
 WHERE customer_id = %(customer)s AND queue_class = %(queue_class)s
 GROUP BY customer_id, queue_class) AS found;

-- name: prune_classes
-- Rows that a fold changes meanwhile are left to the next slice. A class is that of one customer.
WITH oldest AS MATERIALIZED (
    SELECT customer_id, queue_class FROM queue_class_counts
     WHERE emptied_at < now() - %(seconds)s * interval '1 second' AND pending = 0 AND pending_rest = 0
     ORDER BY emptied_at
     LIMIT %(limit)s
       FOR UPDATE SKIP LOCKED
), emptied AS (
    DELETE FROM queue_class_counts c USING oldest
     WHERE c.customer_id = oldest.customer_id AND c.queue_class = oldest.queue_class
       AND NOT EXISTS (SELECT 1 FROM queue_class_deltas d
                        WHERE d.customer_id = c.customer_id AND d.queue_class = c.queue_class)
    RETURNING c.customer_id, c.queue_class
), states AS (
    DELETE FROM class_states WHERE (customer_id, queue_class) IN (SELECT customer_id, queue_class FROM emptied)
), compiled AS (
    DELETE FROM queue_classes WHERE queue_class IN (SELECT queue_class FROM emptied)
)
SELECT count(*) FROM emptied;

-- name: get_compiled
SELECT queue_class, compiled FROM queue_classes WHERE queue_class = ANY(%(classes)s::text[]);

-- name: put_compiled
INSERT INTO queue_classes AS c (queue_class, compiled)
SELECT name, compiled FROM unnest(%(classes)s::text[], %(compiled)s::bytea[]) AS r (name, compiled)
 ORDER BY name
    ON CONFLICT (queue_class) DO UPDATE SET compiled = excluded.compiled, written_at = clock_timestamp()
 WHERE c.compiled <> excluded.compiled;
