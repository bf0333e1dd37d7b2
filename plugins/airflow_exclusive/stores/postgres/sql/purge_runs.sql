-- Forget ended attempts that finished before `before`, oldest first, `batch` at a time: few locks, so jobs go on meanwhile.
-- A tick whose success is forgotten could be run again. The attempt that a status row points to stays.
DELETE FROM {schema}.scheduled_job_run WHERE id IN (
    SELECT r.id FROM {schema}.scheduled_job_run r
    WHERE r.finished_at < %(before)s AND r.outcome <> 'running'
      AND NOT EXISTS (SELECT FROM {schema}.scheduled_job_status s WHERE s.job_name = r.job_name AND s.owner = r.owner)
    ORDER BY r.id LIMIT %(batch)s
)
RETURNING 1;
