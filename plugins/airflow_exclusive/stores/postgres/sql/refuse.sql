-- Note a final refusal, once per request.
INSERT INTO {schema}.scheduled_job_refusal (
    job_name, run_key, reason, node_id, owner, refused_at, detail,
    deployment, dag_id, run_id, task_id, map_index, try_number
) VALUES (
    %(job_name)s, %(run_key)s, %(reason)s, %(node_id)s, %(owner)s, coalesce(%(now)s, now()), %(detail)s,
    %(deployment)s, %(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s, %(try_number)s
) ON CONFLICT (owner, reason, md5(detail)) DO NOTHING;
