-- Airflow has shown the tick's success for this try of the task instance. A later try's success is another one: a note
-- that comes so late, or twice, says nothing about it.
UPDATE {schema}.scheduled_job_run r SET confirmed_try = greatest(r.confirmed_try, %(try_number)s)
WHERE r.job_name = %(job_name)s AND r.run_key = %(run_key)s AND r.outcome = 'success'
  AND r.generation = (SELECT max(t.generation) FROM {schema}.scheduled_job_run t
                      WHERE t.job_name = %(job_name)s AND t.run_key = %(run_key)s)
  AND (r.deployment, r.dag_id, r.run_id, r.task_id, r.map_index)
    = (%(deployment)s, %(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s)
  AND r.try_number <= %(try_number)s;
