-- Whether the attempt is the runner still; reads only. No row: it isn't any more.
SELECT true AS held
FROM {schema}.scheduled_job_status
WHERE job_name = %(job_name)s AND owner = %(owner)s AND fencing_token = %(fencing_token)s AND status = 'running';
