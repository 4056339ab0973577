-- name: add_scaling_decisions
INSERT INTO scaling_decisions (epoch, pool, action, worker, instance, wanted, had, reason, message)
SELECT %(epoch)s, r.*
  FROM jsonb_to_recordset(%(records)s::jsonb)
       AS r (pool text, action text, worker text, instance text, wanted integer, had integer, reason text,
             message text);

-- name: scaling_decisions
-- Newest first; `before`: last id of the previous page.
SELECT {{scaling_decision_row}}
  FROM scaling_decisions
 WHERE pool = %(pool)s AND (%(before)s::bigint IS NULL OR id < %(before)s::bigint)
 ORDER BY id DESC
 LIMIT %(limit)s;

-- name: last_scaled
-- Time of the last decision by pool and action, in microseconds.
SELECT pool, action, (extract(epoch FROM max(at)) * 1000000)::bigint
  FROM scaling_decisions
 WHERE action = ANY(%(actions)s::text[])
 GROUP BY pool, action;

-- name: prune_scaling_decisions
DELETE FROM scaling_decisions WHERE at < clock_timestamp() - %(days)s * interval '1 day';

-- name: drains
SELECT {{drain_row}}
  FROM worker_drains
 ORDER BY pool, instance;

-- name: add_drains
INSERT INTO worker_drains (pool, instance, worker, was_cordoned)
SELECT r.* FROM jsonb_to_recordset(%(records)s::jsonb) AS r (pool text, instance text, worker text, was_cordoned boolean)
    ON CONFLICT (pool, instance) DO NOTHING;

-- name: step_drain
-- A repeated step keeps its first time.
UPDATE worker_drains
   SET cordoned_at = CASE WHEN %(step)s = 'cordoned' THEN coalesce(cordoned_at, clock_timestamp()) ELSE cordoned_at END,
       evicted_at = CASE WHEN %(step)s = 'evicted' THEN coalesce(evicted_at, clock_timestamp()) ELSE evicted_at END,
       removing_at = CASE WHEN %(step)s = 'removing' THEN coalesce(removing_at, clock_timestamp()) ELSE removing_at END
 WHERE pool = %(pool)s AND instance = %(instance)s;

-- name: end_drains
DELETE FROM worker_drains WHERE pool = %(pool)s AND instance = ANY(%(instances)s::text[]);
