-- Mark a step as done, in the transaction that does it. No row: it was done before.
INSERT INTO {schema}.scheduled_job_effect (job_name, run_key, generation, step, fencing_token)
VALUES (%(job_name)s, %(run_key)s, %(generation)s, %(step)s, %(fencing_token)s)
ON CONFLICT (job_name, run_key, generation, step) DO NOTHING
