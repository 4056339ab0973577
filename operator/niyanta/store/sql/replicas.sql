-- name: primary_state
-- Which history this is, and its end. The timeline as the log's file names have it: right from the moment of promotion.
SELECT (SELECT system_identifier::text FROM pg_control_system()), (SELECT identity::text FROM meta),
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer, pg_current_wal_lsn()::text;

-- name: replica_state
-- The timeline from what is received; without pg_read_all_stats that isn't shown, and the last restartpoint has to do.
SELECT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system()),
       (SELECT identity::text FROM meta),
       coalesce((SELECT received_tli FROM pg_stat_wal_receiver), greatest(point.timeline_id, least.min_recovery_end_timeline)),
       pg_last_wal_replay_lsn()::text
  FROM pg_control_checkpoint() AS point, pg_control_recovery() AS least;

-- name: replayed
SELECT pg_last_wal_replay_lsn()::text;

-- name: position
-- Of insertion: with synchronous_commit off, a commit may not be written yet.
SELECT pg_current_wal_insert_lsn()::text;
