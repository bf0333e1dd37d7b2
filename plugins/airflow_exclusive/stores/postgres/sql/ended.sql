-- Whether this owner's attempt has ended, or it was refused one for good: what it still has is left behind.
SELECT EXISTS (SELECT FROM {schema}.scheduled_job_run WHERE owner = %(owner)s AND outcome <> 'running')
    OR EXISTS (SELECT FROM {schema}.scheduled_job_refusal WHERE owner = %(owner)s) AS ended;
