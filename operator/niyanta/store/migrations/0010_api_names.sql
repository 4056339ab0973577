-- Field names of the API as they stay: maxRetries is backoffLimit, affinity.hard.gpu is gpu, workerIds are nodeNames.
-- Contracts: code of 0009 writes the old names, which the constraint below refuses, and can't read the new ones. So it
-- refuses to run while a leader of 0009 has a lease (docs/upgrade.md).

DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM leadership WHERE expires_at > clock_timestamp()) AND EXISTS (SELECT 1 FROM workloads) THEN
        RAISE EXCEPTION 'an operator of an earlier release leads: stop it first (docs/upgrade.md)';
    END IF;
END
$$;

-- A spec with the new names; one that has them already is returned unchanged; as
-- resources/old_form.py does with objects.
CREATE FUNCTION internal_new_names(spec jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    affinity jsonb := spec -> 'affinity';
    hard jsonb := affinity -> 'hard';
BEGIN
    IF spec ? 'maxRetries' THEN
        spec := jsonb_build_object('backoffLimit', spec -> 'maxRetries') || (spec - 'maxRetries');
    END IF;
    IF jsonb_typeof(affinity) IS DISTINCT FROM 'object' THEN
        RETURN spec;
    END IF;
    IF jsonb_typeof(hard) = 'object' AND hard ?| ARRAY['gpu', 'workerIds'] THEN
        IF hard ? 'gpu' THEN
            spec := jsonb_build_object('gpu', hard -> 'gpu') || spec;
            hard := hard - 'gpu';
        END IF;
        IF hard ? 'workerIds' THEN
            hard := jsonb_build_object('nodeNames', hard -> 'workerIds') || (hard - 'workerIds');
        END IF;
        affinity := CASE hard WHEN '{}' THEN affinity - 'hard' ELSE affinity || jsonb_build_object('hard', hard) END;
    END IF;
    IF jsonb_typeof(affinity -> 'soft') = 'array' AND jsonb_path_exists(affinity, '$.soft[*].workerIds') THEN
        affinity := affinity || jsonb_build_object('soft', (
            SELECT jsonb_agg(CASE WHEN jsonb_typeof(wish) = 'object' AND wish ? 'workerIds'
                                  THEN jsonb_build_object('nodeNames', wish -> 'workerIds') || (wish - 'workerIds')
                                  ELSE wish END ORDER BY place)
              FROM jsonb_array_elements(affinity -> 'soft') WITH ORDINALITY AS w (wish, place)));
    END IF;
    RETURN CASE affinity WHEN '{}' THEN spec - 'affinity' ELSE spec || jsonb_build_object('affinity', affinity) END;
END
$$;

-- The function runs once for each row, because it is in FROM.
UPDATE workloads
   SET (spec, spec_bytes) = (
       SELECT n.spec, CASE WHEN spec_bytes IS NOT NULL THEN octet_length(n.spec::text) END
         FROM internal_new_names(workloads.spec) AS n (spec))
 WHERE spec ? 'maxRetries' OR spec #> '{affinity,hard}' ?| ARRAY['gpu', 'workerIds']
    OR (jsonb_typeof(spec #> '{affinity,soft}') = 'array' AND jsonb_path_exists(spec, '$.affinity.soft[*].workerIds'));

-- Refuses rows of processes of an earlier release that were left running. No row is read for it.
ALTER TABLE workloads
    ADD CONSTRAINT workloads_names
    CHECK (
        NOT spec ? 'maxRetries'
        AND NOT coalesce(spec #> '{affinity,hard}' ?| ARRAY['gpu', 'workerIds'], false)
        AND NOT coalesce(
            jsonb_typeof(spec #> '{affinity,soft}') = 'array'
            AND jsonb_path_exists(spec, '$.affinity.soft[*].workerIds'), false)
    )
    NOT VALID;

-- Shares in use were fractions of 1 and are percentages now. The leader writes them again within seconds.
UPDATE pools SET status = status || '{"utilization": {}}' WHERE status ? 'utilization';

DROP FUNCTION internal_new_names(jsonb);
