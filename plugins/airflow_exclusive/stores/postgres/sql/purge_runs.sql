-- Forget ended attempts that finished before `before`. A tick whose success is forgotten could be run again. The attempt
-- that a status row points to stays.
WITH old AS (
    SELECT r.job_name, r.fencing_token FROM {schema}.scheduled_job_run r
    WHERE (r.job_name, r.fencing_token) > (%(job_name)s, %(fencing_token)s)
      AND r.finished_at < %(before)s AND r.outcome <> 'running'
      AND NOT EXISTS (SELECT FROM {schema}.scheduled_job_status s WHERE s.job_name = r.job_name AND s.owner = r.owner)
    ORDER BY r.job_name, r.fencing_token LIMIT %(batch)s
), gone AS (
    DELETE FROM {schema}.scheduled_job_run r USING old
    WHERE r.job_name = old.job_name AND r.fencing_token = old.fencing_token
    RETURNING 1
)
SELECT (SELECT count(*) FROM gone) AS deleted, old.* FROM old ORDER BY job_name DESC, fencing_token DESC LIMIT 1;
