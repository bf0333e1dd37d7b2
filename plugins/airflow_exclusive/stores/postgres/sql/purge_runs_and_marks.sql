-- As purge_runs.sql, and forget the marks of the ticks that have no attempt left: asked for again, such a tick begins at
-- its first generation, and would find its steps done. Marks of ticks that this ledger doesn't know are another one's.
WITH old AS (
    SELECT r.job_name, r.fencing_token FROM {schema}.scheduled_job_run r
    WHERE (r.job_name, r.fencing_token) > (%(job_name)s, %(fencing_token)s)
      AND r.finished_at < %(before)s AND r.outcome <> 'running'
      AND NOT EXISTS (SELECT FROM {schema}.scheduled_job_status s WHERE s.job_name = r.job_name AND s.owner = r.owner)
    ORDER BY r.job_name, r.fencing_token LIMIT %(batch)s
), gone AS (
    DELETE FROM {schema}.scheduled_job_run r USING old
    WHERE r.job_name = old.job_name AND r.fencing_token = old.fencing_token
    RETURNING r.job_name, r.run_key
), forgotten AS (
    SELECT DISTINCT gone.job_name, gone.run_key FROM gone
    WHERE NOT EXISTS (
        SELECT FROM {schema}.scheduled_job_run r
        WHERE r.job_name = gone.job_name AND r.run_key = gone.run_key
          AND NOT EXISTS (SELECT FROM old WHERE old.job_name = r.job_name AND old.fencing_token = r.fencing_token)
    )
), unmarked AS (
    DELETE FROM {schema}.scheduled_job_effect e USING forgotten
    WHERE e.job_name = forgotten.job_name AND e.run_key = forgotten.run_key AND e.committed_at < %(before)s
)
SELECT (SELECT count(*) FROM gone) AS deleted, old.* FROM old ORDER BY job_name DESC, fencing_token DESC LIMIT 1;
