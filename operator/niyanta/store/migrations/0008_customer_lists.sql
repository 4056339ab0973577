-- Lists that a Customer's templates may use, and the size of each spec. Expands only: code of 0007 runs on it.

-- template_lists: camelCase field of the Customer -> its list.
ALTER TABLE customers ADD COLUMN template_lists jsonb NOT NULL DEFAULT '{}';

-- Bytes of the spec as JSON text, for budgets of memory. Null in rows of older releases: readers compute it.
ALTER TABLE workloads ADD COLUMN spec_bytes integer;
