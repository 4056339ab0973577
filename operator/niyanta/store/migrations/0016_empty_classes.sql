-- When a class's last pending row left it, so that classes without rows are deleted after a while. Expands only: code of
-- 0014 writes no time; a class that it empties stays, without harm, until a later row of the class has come and gone.
ALTER TABLE queue_class_counts ADD COLUMN emptied_at timestamptz;
UPDATE queue_class_counts SET emptied_at = clock_timestamp() WHERE pending = 0;
CREATE INDEX queue_class_counts_emptied ON queue_class_counts (emptied_at) WHERE emptied_at IS NOT NULL;
