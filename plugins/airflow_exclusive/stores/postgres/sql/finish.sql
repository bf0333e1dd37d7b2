-- Close the attempt, if it is still the running one, and say what the ledger has for it now. Safe to send twice.
UPDATE {schema}.scheduled_job_status SET
    status = %(outcome)s,
    last_run_at = coalesce(%(now)s, now()),
    heartbeat_at = coalesce(%(now)s, now()),
    lease_expires_at = NULL,
    hold_until = CASE WHEN %(hold_at_least)s > 0 THEN started_at + %(hold_at_least)s * interval '1 second' END
WHERE job_name = %(job_name)s AND owner = %(owner)s AND fencing_token = %(fencing_token)s AND status = 'running';

UPDATE {schema}.scheduled_job_run SET
    outcome = %(outcome)s,
    finished_at = coalesce(%(now)s, now()),
    error = %(error)s
WHERE owner = %(owner)s AND fencing_token = %(fencing_token)s AND outcome = 'running';

SELECT outcome FROM {schema}.scheduled_job_run WHERE owner = %(owner)s AND fencing_token = %(fencing_token)s;
