-- Raise the job's fence to this token. No row: a later attempt has been here. The row stays locked until the commit, so
-- that attempts of one job write one after the other.
INSERT INTO {schema}.scheduled_job_fence AS f (job_name, fencing_token)
VALUES (%(job_name)s, %(fencing_token)s)
ON CONFLICT (job_name) DO UPDATE SET fencing_token = EXCLUDED.fencing_token
WHERE f.fencing_token <= EXCLUDED.fencing_token
