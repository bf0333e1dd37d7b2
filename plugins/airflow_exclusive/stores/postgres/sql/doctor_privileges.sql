-- Which of the privileges that jobs need the role lacks, on the tables and functions that exist.
SELECT t.name AS object, p.privilege
FROM (VALUES
    ('{schema}.scheduled_job_status', ARRAY['SELECT', 'INSERT', 'UPDATE']),
    ('{schema}.scheduled_job_run', ARRAY['SELECT', 'INSERT', 'UPDATE']),
    ('{schema}.scheduled_job_refusal', ARRAY['SELECT', 'INSERT']),
    ('{schema}.scheduled_job_fence', ARRAY['SELECT', 'INSERT', 'UPDATE']),
    ('{schema}.scheduled_job_effect', ARRAY['SELECT', 'INSERT'])
) AS t (name, needed), unnest(t.needed) AS p (privilege)
WHERE to_regclass(t.name) IS NOT NULL AND NOT has_table_privilege(t.name, p.privilege)
UNION ALL
SELECT f.name, 'EXECUTE'
FROM (VALUES
    ('{schema}.may_run_again'), ('{schema}.claim_attempt'), ('{schema}.finish_attempt')
) AS f (name)
WHERE NOT has_function_privilege(to_regproc(f.name), 'EXECUTE')
