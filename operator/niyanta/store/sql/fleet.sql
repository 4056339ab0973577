-- name: upsert_workers
INSERT INTO workers AS k (name, pool, region, zone, gpu_model, allocatable, used, slots, slots_used, ready, cordoned,
                          updated_at)
SELECT r.*, clock_timestamp()
  FROM jsonb_to_recordset(%(records)s::jsonb)
       AS r (name text, pool text, region text, zone text, gpu_model text, allocatable jsonb, used jsonb,
             slots integer, slots_used integer, ready boolean, cordoned boolean)
 ORDER BY r.name
    ON CONFLICT (name) DO UPDATE
   SET pool = excluded.pool, region = excluded.region, zone = excluded.zone, gpu_model = excluded.gpu_model,
       allocatable = excluded.allocatable, used = excluded.used, slots = excluded.slots,
       slots_used = excluded.slots_used, ready = excluded.ready, cordoned = excluded.cordoned,
       updated_at = excluded.updated_at;

-- name: delete_workers
DELETE FROM workers WHERE name = ANY(%(names)s::text[]);

-- name: workers_available
SELECT {{worker_row}}
  FROM workers
 WHERE ready AND NOT cordoned AND (slots IS NULL OR slots_used < slots)
   AND (%(pool)s::text IS NULL OR pool = %(pool)s)
   AND (%(region)s::text IS NULL OR region = %(region)s)
   AND (%(gpu_model)s::text IS NULL OR gpu_model = %(gpu_model)s)
 ORDER BY name;

-- name: upsert_customers
INSERT INTO customers AS c (name, tier, limits, namespaces, generation, deleted, service_accounts, secrets,
                            allow_cluster_scope, template_lists, tier_weight)
SELECT r.*
  FROM jsonb_to_recordset(%(records)s::jsonb)
       AS r (name text, tier text, limits jsonb, namespaces text[], generation bigint, deleted boolean,
             service_accounts text[], secrets text[], allow_cluster_scope boolean, template_lists jsonb,
             tier_weight integer)
 ORDER BY name
    ON CONFLICT (name) DO UPDATE
   SET tier = excluded.tier, limits = excluded.limits, namespaces = excluded.namespaces,
       generation = excluded.generation, deleted = excluded.deleted, service_accounts = excluded.service_accounts,
       secrets = excluded.secrets, allow_cluster_scope = excluded.allow_cluster_scope,
       template_lists = excluded.template_lists, tier_weight = excluded.tier_weight;

-- name: write_queue_rules
UPDATE queue_rules
   SET enable_priority = %(priority)s, enable_aging = %(aging)s, boost_per_minute = %(boost)s
 WHERE (enable_priority, enable_aging, boost_per_minute) IS DISTINCT FROM (%(priority)s, %(aging)s, %(boost)s::integer);

-- name: delete_customer
-- The row stays, so that the REST door can distinguish a deleted customer from one that is not known yet.
UPDATE customers SET deleted = true WHERE name = %(name)s;

-- name: customers
SELECT {{customer_row}}
  FROM customers
 WHERE %(name)s::text IS NULL OR name = %(name)s
 ORDER BY name;

-- name: workers
SELECT {{worker_row}}
  FROM workers
 WHERE name > %(after)s AND (%(pool)s::text IS NULL OR pool = %(pool)s)
 ORDER BY name
 LIMIT %(limit)s;

-- name: upsert_pools
INSERT INTO pools AS p (name, spec, status, updated_at)
SELECT name, spec, status, clock_timestamp()
  FROM jsonb_to_recordset(%(records)s::jsonb) AS r (name text, spec jsonb, status jsonb)
 ORDER BY name
    ON CONFLICT (name) DO UPDATE
   SET spec = excluded.spec, status = excluded.status, updated_at = excluded.updated_at;

-- name: delete_pools
DELETE FROM pools WHERE name = ANY(%(names)s::text[]);

-- name: pools
SELECT {{pool_row}} FROM pools ORDER BY name;

-- name: add_worker_request
SELECT {{worker_request_row}} FROM door_request_worker(%(worker)s, %(action)s, %(by)s, %(evict_after)s);

-- name: worker_request
SELECT {{worker_request_row}} FROM worker_requests WHERE id = %(id)s AND worker = %(worker)s;

-- name: last_worker_requests
-- An open drain comes before later requests, because it goes on.
SELECT DISTINCT ON (worker) {{worker_request_row}}
  FROM worker_requests
 WHERE worker = ANY(%(workers)s::text[])
 ORDER BY worker, (action = 'drain' AND done_at IS NULL) DESC, requested_at DESC, id;

-- name: worker_requests
SELECT {{worker_request_row}}
  FROM worker_requests
 WHERE done_at IS NULL
 ORDER BY requested_at, id;

-- name: complete_worker_request
-- A request that was asked anew meanwhile stays open.
UPDATE worker_requests
   SET done_at = clock_timestamp(), outcome = %(outcome)s, message = %(message)s
 WHERE id = %(id)s AND requested_at = %(requested_at)s AND done_at IS NULL;

-- name: prune_worker_requests
DELETE FROM worker_requests WHERE done_at < clock_timestamp() - interval '30 days';

-- name: report_worker_requests
UPDATE worker_requests AS w
   SET begun_at = coalesce(w.begun_at, clock_timestamp()), message = r.message
  FROM jsonb_to_recordset(%(records)s::jsonb) AS r (id uuid, requested_at timestamptz, message text)
 WHERE w.id = r.id AND w.requested_at = r.requested_at AND w.done_at IS NULL;

-- name: write_leader_stats
UPDATE leader_stats SET stats = %(stats)s::jsonb, updated_at = clock_timestamp();

-- name: leader_stats
SELECT stats, extract(epoch FROM clock_timestamp() - nullif(updated_at, '-infinity'))::float8 FROM leader_stats;

-- name: write_figures
UPDATE leader_figures SET figures = %(figures)s::jsonb, updated_at = clock_timestamp();

-- name: figures
SELECT figures, extract(epoch FROM clock_timestamp() - updated_at)::float8
  FROM leader_figures
 WHERE updated_at > '-infinity';

-- name: write_shapes
-- Updates and returns only pools that have a row; the leader writes the others when they have one.
UPDATE pools AS p
   SET shape = r.shape
  FROM jsonb_to_recordset(%(records)s::jsonb) AS r (name text, shape jsonb)
 WHERE p.name = r.name
RETURNING p.name;

-- name: shapes
SELECT name, shape FROM pools WHERE shape IS NOT NULL ORDER BY name;
