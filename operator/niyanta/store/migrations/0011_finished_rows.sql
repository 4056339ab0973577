-- Finished rows in the order of their end, for their retention. Expands only: code of 0010 runs on it.
CREATE INDEX workload_state_finished ON workload_state (finished_at, id)
    WHERE status IN ('SUCCEEDED', 'FAILED', 'CANCELLED');
