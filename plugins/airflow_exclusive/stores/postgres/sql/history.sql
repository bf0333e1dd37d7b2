-- A job's attempts, newest first.
SELECT r.*, s.lease_expires_at
FROM {schema}.scheduled_job_run r
LEFT JOIN {schema}.scheduled_job_status s ON s.owner = r.owner AND s.job_name = r.job_name
WHERE r.job_name = %(job_name)s AND (%(run_key)s::text IS NULL OR r.run_key = %(run_key)s)
ORDER BY r.fencing_token DESC
LIMIT %(limit)s;
