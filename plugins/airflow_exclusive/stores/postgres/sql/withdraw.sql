-- This owner doesn't ask any more and never learned the answer: end the claim that it may have got, and see to it that it
-- gets none by a request that is still on its way. Safe to send twice.
INSERT INTO {schema}.scheduled_job_refusal (
    job_name, run_key, reason, node_id, owner, refused_at, detail,
    deployment, dag_id, run_id, task_id, map_index, try_number
) VALUES (
    %(job_name)s, %(run_key)s, 'withdrawn', %(node_id)s, %(owner)s, coalesce(%(now)s, now()), %(detail)s,
    %(deployment)s, %(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s, %(try_number)s
) ON CONFLICT (owner, reason, md5(detail)) DO NOTHING;

-- A claim that has read already, and not written yet, meets another version of the row, and reads again.
INSERT INTO {schema}.scheduled_job_status AS job (job_name) VALUES (%(job_name)s)
ON CONFLICT (job_name) DO UPDATE SET owner = job.owner;

UPDATE {schema}.scheduled_job_status SET
    status = 'failed', last_run_at = coalesce(%(now)s, now()), lease_expires_at = NULL
WHERE job_name = %(job_name)s AND owner = %(owner)s AND status = 'running';

UPDATE {schema}.scheduled_job_run SET
    outcome = 'failed', finished_at = coalesce(%(now)s, now()), error = %(detail)s
WHERE job_name = %(job_name)s AND owner = %(owner)s AND outcome = 'running';
