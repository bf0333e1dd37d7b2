-- Forget refusals from before `before`, oldest first, `batch` at a time.
DELETE FROM {schema}.scheduled_job_refusal WHERE id IN (
    SELECT id FROM {schema}.scheduled_job_refusal WHERE refused_at < %(before)s ORDER BY id LIMIT %(batch)s
)
RETURNING 1;
