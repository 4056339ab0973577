-- The pool of each worker, where a group is on workers of several pools. Null: `pool` is the pool of all. Expands only:
-- code of 0012 runs on it.

-- pools_attempt: the attempt that pools belong to. Code of 0012 places further attempts without writing either, and what
-- it leaves behind must not count for them.
ALTER TABLE workload_state
    ADD COLUMN pools text[],
    ADD COLUMN pools_attempt integer;
ALTER TABLE attempts ADD COLUMN pools text[];
