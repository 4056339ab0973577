-- name: leadership_acquire
-- clock_timestamp, not now: the statement may have waited for the lock.
UPDATE leadership
   SET epoch = epoch + 1, holder = %(holder)s, expires_at = clock_timestamp() + %(lease)s * interval '1 second'
 WHERE expires_at <= clock_timestamp()
RETURNING epoch;

-- name: leadership_renew
UPDATE leadership
   SET expires_at = clock_timestamp() + %(lease)s * interval '1 second'
 WHERE epoch = %(epoch)s AND holder = %(holder)s AND expires_at > clock_timestamp();

-- name: leadership_release
UPDATE leadership SET expires_at = '-infinity' WHERE epoch = %(epoch)s AND holder = %(holder)s;

-- name: leadership_adopt
UPDATE leadership
   SET epoch = greatest(epoch, %(minimum)s + 1), expires_at = clock_timestamp() + %(lease)s * interval '1 second'
 WHERE holder = %(holder)s AND expires_at > clock_timestamp()
RETURNING epoch;

-- name: leadership_current
SELECT holder, epoch,
       CASE WHEN expires_at = '-infinity' THEN 0
            ELSE extract(epoch FROM expires_at - clock_timestamp()) END::float8
  FROM leadership;

-- name: leadership_check
-- KEY SHARE: renewals do not wait, a new leader waits until this transaction ends.
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
  FROM leadership
 WHERE epoch = %(epoch)s AND holder = %(holder)s AND expires_at > clock_timestamp()
   FOR KEY SHARE;
