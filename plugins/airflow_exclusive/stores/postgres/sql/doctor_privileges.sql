-- Which of the privileges that jobs need the role lacks, on the tables that exist.
SELECT t.name AS table, p.privilege
FROM (VALUES
    ('{schema}.scheduled_job_status', ARRAY['SELECT', 'INSERT', 'UPDATE']),
    ('{schema}.scheduled_job_run', ARRAY['SELECT', 'INSERT', 'UPDATE']),
    ('{schema}.scheduled_job_refusal', ARRAY['SELECT', 'INSERT']),
    ('{schema}.scheduled_job_fence', ARRAY['SELECT', 'INSERT', 'UPDATE']),
    ('{schema}.scheduled_job_effect', ARRAY['SELECT', 'INSERT'])
) AS t (name, needed), unnest(t.needed) AS p (privilege)
WHERE to_regclass(t.name) IS NOT NULL AND NOT has_table_privilege(t.name, p.privilege)
