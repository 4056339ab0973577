-- Values that the operator can't read are refused: one row with the time `infinity`, or with an unknown door, made every
-- read of a batch with it fail. NOT VALID: rows of older releases, which never wrote such values, are not read for it.

ALTER TABLE workloads
    ADD CONSTRAINT workloads_finite_times
    CHECK (created_at BETWEEN '1970-01-01Z' AND '9000-01-01Z') NOT VALID,
    ADD CONSTRAINT workloads_readable
    CHECK (door IN ('kubernetes', 'rest') AND jsonb_typeof(spec) = 'object' AND jsonb_typeof(labels) = 'object')
    NOT VALID;

ALTER TABLE workload_state
    ADD CONSTRAINT workload_state_finite_times
    CHECK (
        queued_at BETWEEN '1970-01-01Z' AND '9000-01-01Z'
        AND created_at BETWEEN '1970-01-01Z' AND '9000-01-01Z'
        AND coalesce(least(not_before, wake_at, paused_at, scheduled_at, started_at, finished_at), queued_at)
            >= '1970-01-01Z'
        AND coalesce(greatest(not_before, wake_at, paused_at, scheduled_at, started_at, finished_at), queued_at)
            <= '9000-01-01Z'
    ) NOT VALID,
    ADD CONSTRAINT workload_state_readable CHECK (jsonb_typeof(excluded) = 'object') NOT VALID;

ALTER TABLE attempts
    ADD CONSTRAINT attempts_finite_times
    CHECK (
        coalesce(least(scheduled_at, started_at, finished_at), '2000-01-01Z') >= '1970-01-01Z'
        AND coalesce(greatest(scheduled_at, started_at, finished_at), '2000-01-01Z') <= '9000-01-01Z'
    ) NOT VALID;
