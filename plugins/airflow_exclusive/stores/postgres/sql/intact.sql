-- Is this still the transaction that was fenced, with its mark? No row: it was committed or rolled back meanwhile, perhaps
-- to a savepoint from before.
SELECT 1 FROM {schema}.scheduled_job_effect
WHERE (job_name, run_key, generation, step) = (%(job_name)s, %(run_key)s, %(generation)s, %(step)s)
  AND current_setting('airflow_exclusive.fenced', true) = 'yes'
