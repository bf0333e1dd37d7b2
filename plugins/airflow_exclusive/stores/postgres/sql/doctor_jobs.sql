-- What the ledger tells of the next jobs by name: signs of a clock that was set back, and of leases of the wrong length.
--   ahead         seconds by which its last heartbeat lies in the future: the server's clock went back
--   set_back      seconds by which an attempt of the last 7 days, whose token is set_back_token, began before the one before
--                 it had ended or begun: the server's clock went back in between
--   longest       95th percentile of the seconds that its successes of the last 30 days took; and its failures that
--                 used up half of a fixed lease, since a job that never fits into its lease has no success
--   lease_seconds ttl of its latest attempt; renewed: whether that lease is renewed
--   deployment    the Airflow deployment of that attempt
--   takeovers     of the last 7 days
SELECT
    s.job_name,
    extract(epoch FROM greatest(s.heartbeat_at, s.last_run_at, s.started_at) - now())::float8 AS ahead,
    latest.lease_seconds, latest.renewed, latest.deployment,
    seen.longest, coalesce(seen.takeovers, 0) AS takeovers, overlap.set_back, overlap.set_back_token
FROM (
    SELECT * FROM {schema}.scheduled_job_status WHERE job_name > %(after)s ORDER BY job_name LIMIT %(limit)s
) s
LEFT JOIN {schema}.scheduled_job_run latest ON latest.owner = s.owner
LEFT JOIN LATERAL (
    SELECT
        percentile_cont(0.95) WITHIN GROUP (ORDER BY took.seconds) FILTER (
            WHERE r.outcome = 'success'
               OR (r.outcome = 'failed' AND NOT r.renewed AND took.seconds > r.lease_seconds / 2)
        ) AS longest,
        count(*) FILTER (WHERE r.outcome = 'taken_over' AND r.finished_at > now() - interval '7 days') AS takeovers
    FROM {schema}.scheduled_job_run r
    CROSS JOIN LATERAL (SELECT extract(epoch FROM r.finished_at - r.started_at)::float8 AS seconds) took
    WHERE r.job_name = s.job_name AND r.started_at > now() - interval '30 days'
      AND r.fencing_token > s.fencing_token - 1000
) seen ON true
LEFT JOIN LATERAL (
    SELECT extract(epoch FROM r.ended_before - r.started_at)::float8 AS set_back, r.fencing_token AS set_back_token
    FROM (
        SELECT started_at, fencing_token,
            lag(greatest(started_at, finished_at)) OVER (ORDER BY fencing_token) AS ended_before
        FROM {schema}.scheduled_job_run
        WHERE job_name = s.job_name AND fencing_token > s.fencing_token - 1000
    ) r
    WHERE r.started_at < r.ended_before AND r.started_at > now() - interval '7 days'
    ORDER BY set_back DESC LIMIT 1
) overlap ON true
ORDER BY s.job_name
