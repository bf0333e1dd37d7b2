-- Forget marks of steps committed before `before`. A step whose mark is forgotten could be done again.
WITH old AS (
    SELECT e.job_name, e.run_key, e.generation, e.step FROM {schema}.scheduled_job_effect e
    WHERE (e.job_name, e.run_key, e.generation, e.step) > (%(job_name)s, %(run_key)s, %(generation)s, %(step)s)
      AND e.committed_at < %(before)s
    ORDER BY e.job_name, e.run_key, e.generation, e.step LIMIT %(batch)s
), gone AS (
    DELETE FROM {schema}.scheduled_job_effect e USING old
    WHERE (e.job_name, e.run_key, e.generation, e.step) = (old.job_name, old.run_key, old.generation, old.step)
    RETURNING 1
)
SELECT (SELECT count(*) FROM gone) AS deleted, old.* FROM old
ORDER BY job_name DESC, run_key DESC, generation DESC, step DESC LIMIT 1;
