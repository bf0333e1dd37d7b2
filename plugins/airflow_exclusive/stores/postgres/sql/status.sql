-- The status rows, one job or all; one without a status is of a job that was only asked for.
SELECT job_name, status, last_run_at, node_id, owner, fencing_token, run_key, generation, attempt, started_at,
    heartbeat_at, lease_expires_at,
    coalesce(status = 'running' AND lease_expires_at < coalesce(%(now)s, now()), false) AS lapsed
FROM {schema}.scheduled_job_status
WHERE status IS NOT NULL AND (%(job_name)s::text IS NULL OR job_name = %(job_name)s)
ORDER BY job_name;
