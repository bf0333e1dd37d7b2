-- Ask for one tick of a job. One row for whoever is admitted, none for everybody else.
--
-- The job's row is locked by a statement of its own, so that those after it see all that the lock's former holders
-- committed: in READ COMMITTED each statement of a function has a snapshot of its own, and one statement that had to wait
-- for the lock would decide on the snapshot from before. Safe to call twice: an owner finds its own claim, and a claim that
-- has ended is never made again. `p_now` replaces the clock in tests.
CREATE OR REPLACE FUNCTION {schema}.claim_tick(
    p_job_name text, p_run_key text, p_owner text, p_node_id text, p_ttl float8, p_renew boolean, p_rerun boolean,
    p_deployment text, p_dag_id text, p_run_id text, p_task_id text, p_map_index integer, p_try_number integer,
    p_cleared_tries integer, p_now timestamptz
) RETURNS TABLE (
    fencing_token bigint, generation integer, attempt integer, started_at float8, lease_expires_at float8, took_over text
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := coalesce(p_now, now());
    v_job {schema}.scheduled_job_status;
    v_last {schema}.scheduled_job_run;
    v_took_over text;
BEGIN
    SELECT * INTO v_job FROM {schema}.scheduled_job_status WHERE job_name = p_job_name FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO {schema}.scheduled_job_status (job_name) VALUES (p_job_name) ON CONFLICT (job_name) DO NOTHING;
        SELECT * INTO v_job FROM {schema}.scheduled_job_status WHERE job_name = p_job_name FOR UPDATE;
    END IF;

    IF v_job.status = 'running' AND v_job.owner = p_owner THEN
        RETURN QUERY SELECT v_job.fencing_token, v_job.generation, v_job.attempt,
            date_part('epoch', v_job.started_at), date_part('epoch', v_job.lease_expires_at), r.took_over
        FROM {schema}.scheduled_job_run r WHERE r.owner = p_owner;
        RETURN;
    END IF;
    IF v_job.status = 'running' AND v_job.lease_expires_at >= v_now THEN
        RETURN;  -- somebody runs it
    END IF;
    IF v_job.hold_until > v_now THEN
        RETURN;  -- hold_at_least
    END IF;

    -- A success is the last attempt of its generation.
    SELECT * INTO v_last FROM {schema}.scheduled_job_run r
    WHERE r.job_name = p_job_name AND r.run_key = p_run_key
    ORDER BY r.generation DESC, r.attempt DESC LIMIT 1;
    IF NOT FOUND THEN
        v_last.generation := 1;
        v_last.attempt := 0;
    ELSIF v_last.outcome = 'success' THEN
        IF NOT {schema}.may_run_again(v_last, p_rerun, p_deployment, p_dag_id, p_run_id, p_task_id, p_map_index,
                                      p_cleared_tries) THEN
            RETURN;  -- done
        END IF;
        v_last.generation := v_last.generation + 1;
        v_last.attempt := 0;
    END IF;

    IF v_job.status = 'running' THEN
        IF EXISTS (SELECT FROM {schema}.scheduled_job_run r WHERE r.owner = p_owner) THEN
            RETURN;  -- this owner's claim has ended
        END IF;
        UPDATE {schema}.scheduled_job_run r
        SET outcome = 'taken_over', finished_at = v_now, error = 'its lease lapsed; taken over by ' || p_node_id
        WHERE r.owner = v_job.owner AND r.outcome = 'running'
        RETURNING r.owner INTO v_took_over;
    END IF;
    INSERT INTO {schema}.scheduled_job_run (
        job_name, run_key, generation, attempt, fencing_token, owner, node_id, outcome, started_at, took_over,
        lease_seconds, renewed, deployment, dag_id, run_id, task_id, map_index, try_number
    ) VALUES (
        p_job_name, p_run_key, v_last.generation, v_last.attempt + 1, v_job.fencing_token + 1, p_owner, p_node_id,
        'running', v_now, v_took_over, p_ttl, p_renew, p_deployment, p_dag_id, p_run_id, p_task_id, p_map_index,
        p_try_number
    ) ON CONFLICT (owner) DO NOTHING;
    IF NOT FOUND THEN
        RETURN;  -- this owner's claim has ended
    END IF;
    UPDATE {schema}.scheduled_job_status s
    SET status = 'running', owner = p_owner, node_id = p_node_id, fencing_token = v_job.fencing_token + 1,
        run_key = p_run_key, generation = v_last.generation, attempt = v_last.attempt + 1, started_at = v_now,
        heartbeat_at = v_now, lease_expires_at = v_now + p_ttl * interval '1 second', hold_until = NULL
    WHERE s.job_name = p_job_name
    RETURNING s.fencing_token, s.generation, s.attempt, date_part('epoch', s.started_at),
        date_part('epoch', s.lease_expires_at), v_took_over
    INTO fencing_token, generation, attempt, started_at, lease_expires_at, took_over;
    RETURN NEXT;
END
$$;
