-- Ask for one tick of a job. Whoever is admitted gets [fencing token, generation, attempt, start and end of the lease in
-- microseconds since 1970, 1 if it took over and 0 if not], everybody else null. An array, since a row would cost Postgres
-- more than an index does.
--
-- Read, decide, and write if the job's row is still the one that was read; else once more from the beginning. Whatever
-- changes which attempts a job has, changes its row too, so an unchanged row means an unchanged ledger. Nothing less will
-- do: in READ COMMITTED a statement that had to wait for a row re-reads that row and goes on with the snapshot from before.
-- Safe to call twice: an owner finds its own claim, and one whose claim has ended, or that was refused for good, never gets
-- another. `p_now` replaces the
-- clock in tests.
CREATE OR REPLACE FUNCTION {schema}.claim_attempt(
    p_job_name text, p_run_key text, p_owner text, p_node_id text, p_ttl float8, p_renew boolean, p_rerun boolean,
    p_deployment text, p_dag_id text, p_run_id text, p_task_id text, p_map_index integer, p_try_number integer,
    p_cleared_tries integer, p_now timestamptz
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_expires_at timestamptz;
    v_rounds integer := 0;
    v_seen record;
    v_generation integer;
    v_attempt integer;
    v_took_over text;
BEGIN
    LOOP
        v_rounds := v_rounds + 1;
        IF v_rounds > 100 THEN
            RAISE EXCEPTION 'the row of job % changes faster than it can be claimed', p_job_name
                USING ERRCODE = 'serialization_failure';
        END IF;
        v_now := coalesce(p_now, clock_timestamp());
        v_expires_at := v_now + p_ttl * interval '1 second';
        -- A success is the last attempt of its generation.
        SELECT job.xmin AS version, job.status, job.owner, job.fencing_token, job.generation, job.attempt, job.started_at,
            job.lease_expires_at, job.hold_until, tick.generation AS last_generation, tick.attempt AS last_attempt,
            tick.outcome AS last_outcome, own.owner AS own, own.took_over,
            EXISTS (SELECT FROM {schema}.scheduled_job_refusal r WHERE r.owner = p_owner) AS refused
        INTO v_seen
        FROM {schema}.scheduled_job_status job
        LEFT JOIN LATERAL (
            SELECT r.generation, r.attempt, r.outcome FROM {schema}.scheduled_job_run r
            WHERE r.job_name = p_job_name AND r.run_key = p_run_key
            ORDER BY r.generation DESC, r.attempt DESC LIMIT 1
        ) AS tick ON true
        LEFT JOIN {schema}.scheduled_job_run own ON own.owner = p_owner
        WHERE job.job_name = p_job_name;
        IF NOT FOUND THEN
            INSERT INTO {schema}.scheduled_job_status (job_name) VALUES (p_job_name) ON CONFLICT (job_name) DO NOTHING;
            CONTINUE;
        END IF;

        IF v_seen.status = 'running' AND v_seen.owner = p_owner THEN
            RETURN ARRAY[
                v_seen.fencing_token, v_seen.generation, v_seen.attempt, date_part('epoch', v_seen.started_at) * 1000000,
                date_part('epoch', v_seen.lease_expires_at) * 1000000, (v_seen.took_over IS NOT NULL)::integer
            ];
        END IF;
        IF v_seen.own IS NOT NULL OR v_seen.refused THEN
            RETURN NULL;  -- this owner's claim has ended, or it was refused for good, or has withdrawn
        END IF;
        IF v_seen.status = 'running' AND v_seen.lease_expires_at >= v_now THEN
            RETURN NULL;  -- somebody runs it
        END IF;
        IF v_seen.hold_until > v_now THEN
            RETURN NULL;  -- hold_at_least
        END IF;
        v_generation := coalesce(v_seen.last_generation, 1);
        v_attempt := coalesce(v_seen.last_attempt, 0) + 1;
        IF v_seen.last_outcome = 'success' THEN
            PERFORM FROM {schema}.scheduled_job_run r
            WHERE r.job_name = p_job_name AND r.run_key = p_run_key AND r.generation = v_generation
              AND r.outcome = 'success'
              AND {schema}.may_run_again(r, p_rerun, p_deployment, p_dag_id, p_run_id, p_task_id, p_map_index,
                                         p_cleared_tries);
            IF NOT FOUND THEN
                RETURN NULL;  -- done
            END IF;
            v_generation := v_generation + 1;
            v_attempt := 1;
        END IF;

        UPDATE {schema}.scheduled_job_status
        SET status = 'running', owner = p_owner, node_id = p_node_id, fencing_token = v_seen.fencing_token + 1,
            run_key = p_run_key, generation = v_generation, attempt = v_attempt, started_at = v_now,
            heartbeat_at = v_now, lease_expires_at = v_expires_at, hold_until = NULL
        WHERE job_name = p_job_name AND xmin = v_seen.version;
        EXIT WHEN FOUND;
    END LOOP;

    IF v_seen.status = 'running' THEN
        UPDATE {schema}.scheduled_job_run
        SET outcome = 'taken_over', finished_at = v_now, error = 'its lease lapsed; taken over by ' || p_node_id
        WHERE owner = v_seen.owner
        RETURNING owner INTO v_took_over;
    END IF;
    INSERT INTO {schema}.scheduled_job_run (
        job_name, run_key, generation, attempt, fencing_token, owner, node_id, outcome, started_at, took_over,
        lease_seconds, renewed, deployment, dag_id, run_id, task_id, map_index, try_number
    ) VALUES (
        p_job_name, p_run_key, v_generation, v_attempt, v_seen.fencing_token + 1, p_owner, p_node_id, 'running', v_now,
        v_took_over, p_ttl, p_renew, p_deployment, p_dag_id, p_run_id, p_task_id, p_map_index, p_try_number
    );
    RETURN ARRAY[
        v_seen.fencing_token + 1, v_generation, v_attempt, date_part('epoch', v_now) * 1000000,
        date_part('epoch', v_expires_at) * 1000000, (v_took_over IS NOT NULL)::integer
    ];
END
$$;
