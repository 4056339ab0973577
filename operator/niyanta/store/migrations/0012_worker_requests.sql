-- Requests to cordon and uncordon workers beside those to drain them, and drains that evict only if asked to.

-- evict_at: time from which a drain puts workloads back into the queue; null: it waits for them, however long.
-- begun_at: when the leader had cordoned the worker for a drain. outcome: null while the request is open.
ALTER TABLE worker_requests
    DROP CONSTRAINT worker_requests_action_check,
    ADD CONSTRAINT worker_requests_action_check CHECK (action IN ('cordon', 'uncordon', 'drain')),
    ADD COLUMN evict_at timestamptz,
    ADD COLUMN begun_at timestamptz,
    ADD COLUMN outcome text CHECK (outcome IN ('Done', 'Failed', 'Replaced'));
UPDATE worker_requests SET outcome = 'Done' WHERE done_at IS NOT NULL;
CREATE INDEX worker_requests_by_worker ON worker_requests (worker, requested_at);

-- Asks the leader to cordon, uncordon or drain a worker. An open request of the same kind is asked anew: its time, its
-- author and its eviction become those of this call. No row for an unknown worker.
CREATE FUNCTION door_request_worker(worker_name text, wanted text, asked_by text, evict_after integer)
RETURNS SETOF worker_requests
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF (wanted IN ('cordon', 'uncordon', 'drain')) IS NOT TRUE
       OR evict_after NOT BETWEEN 0 AND 604800 OR (evict_after IS NOT NULL AND wanted <> 'drain') THEN
        RAISE EXCEPTION USING ERRCODE = 'NY001', MESSAGE = 'the request for a worker is refused';
    END IF;
    RETURN QUERY
    INSERT INTO worker_requests AS r (worker, action, requested_by, evict_at)
    SELECT w.name, wanted, left(asked_by, 200), clock_timestamp() + evict_after * interval '1 second'
      FROM workers w WHERE w.name = worker_name
        ON CONFLICT (worker, action) WHERE done_at IS NULL DO UPDATE
       SET requested_by = excluded.requested_by, requested_at = clock_timestamp(), evict_at = excluded.evict_at,
           begun_at = NULL, message = ''
    RETURNING r.*;
END
$$;

DO $$
BEGIN
    REVOKE ALL ON FUNCTION door_request_worker(text, text, text, integer) FROM PUBLIC;
    EXECUTE format('ALTER FUNCTION door_request_worker(text, text, text, integer)'
                   ' SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp', current_schema());
END
$$;
