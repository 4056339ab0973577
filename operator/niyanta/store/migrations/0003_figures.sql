-- What the leader counts each second for autoscalers and dashboards, and what an empty worker of each pool offers.
-- Expands only: code of 0002 runs on it.

-- One row. figures: as store/figures.py writes them.
CREATE TABLE leader_figures (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    figures    jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);
INSERT INTO leader_figures DEFAULT VALUES;

-- The empty worker last observed in the pool: a pool at zero workers still has it. Null: none was ever seen.
ALTER TABLE pools ADD COLUMN shape jsonb;
