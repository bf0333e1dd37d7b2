-- Who was told no, newest first.
SELECT * FROM {schema}.scheduled_job_refusal
WHERE job_name = %(job_name)s AND (%(run_key)s::text IS NULL OR run_key = %(run_key)s)
ORDER BY refused_at DESC, id DESC
LIMIT %(limit)s;
