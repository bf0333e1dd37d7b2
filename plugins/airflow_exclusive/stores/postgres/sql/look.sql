-- What the ledger says about one tick of one job, to one asker; reads only. Always one row.
--   again        the finished tick may be run once more: --rerun, or a person cleared a try that Airflow had shown as done
--   holder_*     the attempt that the status row points to
--   holder_alive it runs and its lease hasn't lapsed
--   retry_after  seconds until its lease lapses, or until hold_at_least is over
--   previous_*   the attempt that the holder took over
--   done_*       the success of the tick's latest generation; done_result only for the task instance that had it
SELECT
    d.owner IS NOT NULL AND {schema}.may_run_again(d, %(rerun)s, %(deployment)s, %(dag_id)s, %(run_id)s, %(task_id)s,
        %(map_index)s, %(cleared_tries)s) AS again,
    coalesce(s.status = 'running' AND s.lease_expires_at >= coalesce(%(now)s, now()), false) AS holder_alive,
    extract(epoch FROM greatest(
        CASE WHEN s.status = 'running' THEN s.lease_expires_at END, s.hold_until
    ) - coalesce(%(now)s, now()))::float8 AS retry_after,
    h.job_name AS holder_job_name, h.run_key AS holder_run_key, h.generation AS holder_generation,
    h.attempt AS holder_attempt, h.fencing_token AS holder_fencing_token, h.owner AS holder_owner,
    h.node_id AS holder_node_id, h.outcome AS holder_outcome, h.started_at AS holder_started_at,
    h.finished_at AS holder_finished_at, h.error AS holder_error, s.lease_expires_at AS holder_lease_expires_at,
    h.deployment AS holder_deployment, h.dag_id AS holder_dag_id, h.run_id AS holder_run_id,
    h.task_id AS holder_task_id, h.map_index AS holder_map_index, h.try_number AS holder_try_number,
    p.job_name AS previous_job_name, p.run_key AS previous_run_key, p.generation AS previous_generation,
    p.attempt AS previous_attempt, p.fencing_token AS previous_fencing_token, p.owner AS previous_owner,
    p.node_id AS previous_node_id, p.outcome AS previous_outcome, p.started_at AS previous_started_at,
    p.finished_at AS previous_finished_at, p.error AS previous_error,
    p.deployment AS previous_deployment, p.dag_id AS previous_dag_id, p.run_id AS previous_run_id,
    p.task_id AS previous_task_id, p.map_index AS previous_map_index, p.try_number AS previous_try_number,
    d.job_name AS done_job_name, d.run_key AS done_run_key, d.generation AS done_generation,
    d.attempt AS done_attempt, d.fencing_token AS done_fencing_token, d.owner AS done_owner,
    d.node_id AS done_node_id, d.outcome AS done_outcome, d.started_at AS done_started_at,
    d.finished_at AS done_finished_at, d.error AS done_error,
    d.deployment AS done_deployment, d.dag_id AS done_dag_id, d.run_id AS done_run_id,
    d.task_id AS done_task_id, d.map_index AS done_map_index, d.try_number AS done_try_number,
    CASE WHEN (d.deployment, d.dag_id, d.run_id, d.task_id, d.map_index)
            = (%(deployment)s, %(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s)
        THEN d.result END AS done_result
FROM (SELECT) AS one
LEFT JOIN {schema}.scheduled_job_status s ON s.job_name = %(job_name)s
LEFT JOIN {schema}.scheduled_job_run h ON h.owner = s.owner
LEFT JOIN {schema}.scheduled_job_run p ON p.owner = h.took_over
LEFT JOIN {schema}.scheduled_job_run d ON d.job_name = %(job_name)s AND d.run_key = %(run_key)s
    AND d.outcome = 'success'
    AND d.generation = (SELECT max(t.generation) FROM {schema}.scheduled_job_run t
                        WHERE t.job_name = %(job_name)s AND t.run_key = %(run_key)s);
