-- End the running attempt by hand. Gives the attempt that was ended.
SELECT FROM {schema}.scheduled_job_status WHERE job_name = %(job_name)s FOR UPDATE;

UPDATE {schema}.scheduled_job_status SET
    status = CASE WHEN status = 'running' THEN 'failed' ELSE status END,
    lease_expires_at = NULL,
    hold_until = NULL
WHERE job_name = %(job_name)s;

UPDATE {schema}.scheduled_job_run SET
    outcome = 'released',
    finished_at = coalesce(%(now)s, now()),
    error = %(reason)s
WHERE job_name = %(job_name)s AND outcome = 'running'
RETURNING *;
