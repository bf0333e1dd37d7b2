-- Forget marks of steps committed before `before`, `batch` at a time. A step whose mark is forgotten could be done again.
DELETE FROM {schema}.scheduled_job_effect WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {schema}.scheduled_job_effect WHERE committed_at < %(before)s LIMIT %(batch)s
))
RETURNING 1;
