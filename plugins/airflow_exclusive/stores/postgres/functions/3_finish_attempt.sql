-- Close the attempt, if it is still the running one, and give what the ledger has for it now (null: no such attempt).
-- Safe to call twice.
CREATE OR REPLACE FUNCTION {schema}.finish_attempt(
    p_job_name text, p_owner text, p_fencing_token bigint, p_outcome text, p_error text, p_result text,
    p_hold_at_least float8, p_now timestamptz
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := coalesce(p_now, now());
    v_outcome text;
BEGIN
    UPDATE {schema}.scheduled_job_status
    SET status = p_outcome, last_run_at = v_now, lease_expires_at = NULL,
        hold_until = CASE WHEN p_hold_at_least > 0 THEN started_at + p_hold_at_least * interval '1 second' END
    WHERE job_name = p_job_name AND owner = p_owner AND fencing_token = p_fencing_token AND status = 'running';
    IF FOUND THEN
        UPDATE {schema}.scheduled_job_run
        SET outcome = p_outcome, finished_at = v_now, error = p_error, result = p_result
        WHERE owner = p_owner
        RETURNING outcome INTO v_outcome;
    ELSE
        SELECT outcome INTO v_outcome FROM {schema}.scheduled_job_run
        WHERE owner = p_owner AND fencing_token = p_fencing_token;
    END IF;
    RETURN v_outcome;
END
$$;
