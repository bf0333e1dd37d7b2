-- Forget refusals from before `before`.
WITH old AS (
    SELECT r.id FROM {schema}.scheduled_job_refusal r
    WHERE r.id > %(id)s AND r.refused_at < %(before)s
    ORDER BY r.id LIMIT %(batch)s
), gone AS (
    DELETE FROM {schema}.scheduled_job_refusal r USING old WHERE r.id = old.id
    RETURNING 1
)
SELECT (SELECT count(*) FROM gone) AS deleted, old.* FROM old ORDER BY id DESC LIMIT 1;
