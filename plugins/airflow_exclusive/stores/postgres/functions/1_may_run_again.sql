-- Whether an asker may run a finished tick once more: it was asked for by hand, or a person cleared a try of the same task
-- instance that Airflow had shown as successful.
CREATE OR REPLACE FUNCTION {schema}.may_run_again(
    done {schema}.scheduled_job_run, rerun boolean, deployment text, dag_id text, run_id text, task_id text,
    map_index integer, cleared_tries integer
) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce($2 OR ($4 <> '' AND ($1).confirmed_try <= $8
        AND (($1).deployment, ($1).dag_id, ($1).run_id, ($1).task_id, ($1).map_index) = ($3, $4, $5, $6, $7)), false)
$$;
