-- name: primary_state
-- Identity of the WAL history, and its end. The timeline of the log's file name is right immediately after a promotion.
SELECT (SELECT system_identifier::text FROM pg_control_system()), (SELECT identity::text FROM meta),
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer, pg_current_wal_lsn()::text;

-- name: replica_state
-- The timeline that is received or, without the privilege pg_read_all_stats, that of the last restartpoint.
SELECT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system()),
       (SELECT identity::text FROM meta),
       coalesce((SELECT received_tli FROM pg_stat_wal_receiver), greatest(point.timeline_id, least.min_recovery_end_timeline)),
       pg_last_wal_replay_lsn()::text
  FROM pg_control_checkpoint() AS point, pg_control_recovery() AS least;

-- name: replayed
SELECT pg_last_wal_replay_lsn()::text;

-- name: position
-- The insert position: with synchronous_commit off, a commit may not be written yet.
SELECT pg_current_wal_insert_lsn()::text;
