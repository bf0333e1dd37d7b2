-- Keep the lease for another ttl; a renewal that was delayed on its way doesn't shorten it. No row: the attempt isn't the
-- runner any more.
UPDATE {schema}.scheduled_job_status SET
    heartbeat_at = coalesce(%(now)s, now()),
    lease_expires_at = greatest(lease_expires_at, coalesce(%(now)s, now()) + %(ttl)s * interval '1 second')
WHERE job_name = %(job_name)s AND owner = %(owner)s AND fencing_token = %(fencing_token)s AND status = 'running'
RETURNING lease_expires_at;
