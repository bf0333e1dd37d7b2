-- End the owner's attempt by hand, and its hold_at_least. Gives the attempt if that is how it ended, now or by an earlier
-- request whose reply was lost. Whoever has the job meanwhile is left alone.
UPDATE {schema}.scheduled_job_status SET
    status = CASE WHEN status = 'running' THEN 'failed' ELSE status END,
    lease_expires_at = NULL,
    hold_until = NULL
WHERE job_name = %(job_name)s AND owner = %(owner)s;

UPDATE {schema}.scheduled_job_run SET
    outcome = 'released',
    finished_at = coalesce(%(now)s, now()),
    error = %(reason)s
WHERE job_name = %(job_name)s AND owner = %(owner)s AND outcome = 'running';

SELECT * FROM {schema}.scheduled_job_run WHERE owner = %(owner)s AND outcome = 'released';
