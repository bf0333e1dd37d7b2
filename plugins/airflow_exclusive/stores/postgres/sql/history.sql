-- A job's attempts, newest first; those before a token, or all.
SELECT r.job_name, r.run_key, r.generation, r.attempt, r.fencing_token, r.owner, r.node_id, r.outcome, r.started_at,
    r.finished_at, s.lease_expires_at, r.error, r.deployment, r.dag_id, r.run_id, r.task_id, r.map_index, r.try_number
FROM {schema}.scheduled_job_run r
LEFT JOIN {schema}.scheduled_job_status s ON s.owner = r.owner AND s.job_name = r.job_name
WHERE r.job_name = %(job_name)s AND (%(run_key)s::text IS NULL OR r.run_key = %(run_key)s)
    AND (%(before)s::bigint IS NULL OR r.fencing_token < %(before)s)
ORDER BY r.fencing_token DESC
LIMIT %(limit)s;
