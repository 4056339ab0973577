-- name: applied_migrations
SELECT version FROM schema_migrations;

-- name: names_migrated_at
SELECT applied_at FROM schema_migrations WHERE version = 10;

-- name: old_rows
-- The first rows with names of an earlier release, as migration 0010 finds them, and the number of all.
SELECT w.namespace, w.name, w.id::text, s.status, count(*) OVER ()
  FROM workloads w JOIN workload_state s ON s.id = w.id
 WHERE w.spec ? 'maxRetries' OR w.spec #> '{affinity,hard}' ?| ARRAY['gpu', 'workerIds']
    OR (jsonb_typeof(w.spec #> '{affinity,soft}') = 'array'
        AND jsonb_path_exists(w.spec, '$.affinity.soft[*].workerIds'))
 ORDER BY w.created_at, w.id LIMIT %(most)s;
