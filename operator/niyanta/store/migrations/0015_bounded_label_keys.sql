-- At most 64 visible label keys a reach: beyond them every label there tells workloads apart, and further keys are not
-- stored. Without a bound, one customer's selectors would make each submission of others slower.

-- As in 0014; '{*}' stands for all labels. One key beyond the bound is kept, as the sign that it was passed.
CREATE OR REPLACE FUNCTION internal_visible_keys(customer text, namespace text) RETURNS text[]
LANGUAGE sql STABLE AS $$
SELECT CASE WHEN coalesce(max(r.n), 0) > 64 THEN '{*}'
            ELSE coalesce(array_agg(DISTINCT r.key ORDER BY r.key), '{}') END
  FROM (SELECT v.key, count(*) OVER (PARTITION BY v.reach) AS n
          FROM visible_label_keys v
         WHERE v.reach IN ('namespace/' || namespace, 'customer/' || customer, '*')) AS r
$$;

CREATE OR REPLACE FUNCTION internal_queue_class(base text, keys text[], labels jsonb) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN base <> '' THEN
       md5(base || CASE WHEN cardinality(keys) = 0 THEN ''
                        WHEN keys = '{*}' THEN labels::text
                        ELSE coalesce((SELECT jsonb_object_agg(k, labels -> k)::text
                                         FROM unnest(keys) AS k WHERE labels ? k), '') END) END
$$;

-- For each insert into the table, whoever makes it. Rows of one statement see each other's.
CREATE FUNCTION internal_bound_visible_keys() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM visible_label_keys v WHERE v.reach = new.reach) > 64 THEN
        RETURN NULL;
    END IF;
    RETURN new;
END
$$;
CREATE TRIGGER visible_label_keys_bound BEFORE INSERT ON visible_label_keys
    FOR EACH ROW EXECUTE FUNCTION internal_bound_visible_keys();

REVOKE ALL ON FUNCTION internal_bound_visible_keys() FROM PUBLIC;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION internal_bound_visible_keys() SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp',
                   current_schema());
END
$$;
