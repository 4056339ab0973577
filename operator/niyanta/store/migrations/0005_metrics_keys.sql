-- Keys of autoscalers, which may read the figures of pools and nothing else. Expands only: code of 0004 runs on it,
-- and refuses such a key.
ALTER TABLE api_keys DROP CONSTRAINT api_keys_role_check;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_role_check CHECK (role IN ('customer', 'admin', 'metrics'));
