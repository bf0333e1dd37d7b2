-- Ask for one tick. One message, one transaction, several statements: the job's row is locked by a statement of its own,
-- so that those after it see all that the lock's former holders committed (a single statement that had to wait for the
-- lock would decide on the snapshot from before). Safe to send twice: an owner finds its own claim, and a claim that has
-- ended is never made again.
INSERT INTO {schema}.scheduled_job_status (job_name) VALUES (%(job_name)s) ON CONFLICT (job_name) DO NOTHING;

SELECT FROM {schema}.scheduled_job_status WHERE job_name = %(job_name)s FOR UPDATE;

WITH answer AS (
    {include:answer}
), tick AS (
    SELECT coalesce(max(generation), 1) AS generation FROM {schema}.scheduled_job_run
    WHERE job_name = %(job_name)s AND run_key = %(run_key)s
), wanted AS (
    SELECT tick.generation + (answer.done_owner IS NOT NULL)::int AS generation
    FROM answer, tick
    WHERE NOT answer.holder_alive
      AND (answer.done_owner IS NULL OR answer.again)
      AND NOT EXISTS (SELECT FROM {schema}.scheduled_job_run WHERE owner = %(owner)s)
)
UPDATE {schema}.scheduled_job_status s SET
    status = 'running',
    owner = %(owner)s,
    node_id = %(node_id)s,
    fencing_token = s.fencing_token + 1,
    run_key = %(run_key)s,
    generation = wanted.generation,
    attempt = 1 + (SELECT count(*) FROM {schema}.scheduled_job_run r WHERE r.job_name = %(job_name)s
                   AND r.run_key = %(run_key)s AND r.generation = wanted.generation),
    started_at = coalesce(%(now)s, now()),
    heartbeat_at = coalesce(%(now)s, now()),
    lease_expires_at = coalesce(%(now)s, now()) + %(ttl)s * interval '1 second',
    hold_until = NULL
FROM wanted
WHERE s.job_name = %(job_name)s AND coalesce(s.hold_until <= coalesce(%(now)s, now()), true);

-- The attempt that was taken over is closed before the new one is opened: only one may be `running` at any moment.
UPDATE {schema}.scheduled_job_run r SET
    outcome = 'taken_over',
    finished_at = coalesce(%(now)s, now()),
    error = 'its lease lapsed; taken over by ' || s.node_id
FROM {schema}.scheduled_job_status s
WHERE s.job_name = %(job_name)s AND s.owner = %(owner)s AND s.status = 'running'
  AND r.job_name = %(job_name)s AND r.outcome = 'running' AND r.owner <> %(owner)s;

INSERT INTO {schema}.scheduled_job_run (
    job_name, run_key, generation, attempt, fencing_token, owner, node_id, outcome, started_at, took_over,
    lease_seconds, renewed,
    deployment, dag_id, run_id, task_id, map_index, try_number
)
SELECT
    s.job_name, s.run_key, s.generation, s.attempt, s.fencing_token, s.owner, s.node_id, 'running', s.started_at,
    (SELECT p.owner FROM {schema}.scheduled_job_run p WHERE p.job_name = s.job_name
     AND p.fencing_token = s.fencing_token - 1 AND p.outcome = 'taken_over'),
    %(ttl)s, %(renew)s,
    %(deployment)s, %(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s, %(try_number)s
FROM {schema}.scheduled_job_status s
WHERE s.job_name = %(job_name)s AND s.owner = %(owner)s AND s.status = 'running'
ON CONFLICT (owner) DO NOTHING;

{include:answer};
