-- The status rows by name: of one job, or of those whose name has %(search)s in it and comes after %(after)s. With what
-- the ledger says of where the attempt came from. A row without a status is of a job that was only asked for.
SELECT s.job_name, s.status, s.last_run_at, s.node_id, s.owner, s.fencing_token, s.run_key, s.generation, s.attempt,
    s.started_at, s.heartbeat_at, s.lease_expires_at,
    CASE WHEN s.hold_until > coalesce(%(now)s, now()) THEN s.hold_until END AS hold_until,
    coalesce(s.status = 'running' AND s.lease_expires_at < coalesce(%(now)s, now()), false) AS lapsed,
    r.deployment, r.dag_id, r.run_id, r.task_id, r.map_index, r.try_number
FROM {schema}.scheduled_job_status s
LEFT JOIN {schema}.scheduled_job_run r ON r.job_name = s.job_name AND r.fencing_token = s.fencing_token
WHERE s.status IS NOT NULL
    AND (%(job_name)s::text IS NULL OR s.job_name = %(job_name)s)
    AND (%(search)s::text IS NULL OR strpos(lower(s.job_name), lower(%(search)s)) > 0)
    AND (%(after)s::text IS NULL OR s.job_name > %(after)s)
ORDER BY s.job_name
LIMIT %(limit)s;
