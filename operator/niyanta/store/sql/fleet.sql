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
SELECT name, pool, region, zone, gpu_model, allocatable, used, slots, slots_used, ready, cordoned, updated_at
  FROM workers
 WHERE ready AND NOT cordoned AND (slots IS NULL OR slots_used < slots)
   AND (%(pool)s::text IS NULL OR pool = %(pool)s)
   AND (%(region)s::text IS NULL OR region = %(region)s)
   AND (%(gpu_model)s::text IS NULL OR gpu_model = %(gpu_model)s)
 ORDER BY name;

-- name: upsert_customers
INSERT INTO customers AS c (name, tier, limits, namespaces, generation, deleted)
SELECT name, tier, limits, namespaces, generation, deleted
  FROM jsonb_to_recordset(%(records)s::jsonb)
       AS r (name text, tier text, limits jsonb, namespaces text[], generation bigint, deleted boolean)
 ORDER BY name
    ON CONFLICT (name) DO UPDATE
   SET tier = excluded.tier, limits = excluded.limits, namespaces = excluded.namespaces,
       generation = excluded.generation, deleted = excluded.deleted;

-- name: delete_customer
-- The row stays, so that the REST door can tell a deleted customer from one it hasn't heard of yet.
UPDATE customers SET deleted = true WHERE name = %(name)s;

-- name: customers
SELECT name, tier, limits, namespaces, generation, deleted FROM customers ORDER BY name;
