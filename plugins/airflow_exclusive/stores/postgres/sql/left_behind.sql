-- Whether a lock is nobody's any more: its owner's attempt has ended, or it was refused one for good; or it outlasts a lease
-- that has lapsed, by more than the owner can have set it to: then Redis' clock was set back, or a replica's is behind. What
-- could be the owner's own setting stays, since a lease also seems to have lapsed when this server's clock was set forward.
--   seconds_left  for which the lock lasts
--   longest       seconds for which an owner without an attempt may have one
-- The second on top is for clocks that are corrected a little.
SELECT EXISTS (SELECT FROM {schema}.scheduled_job_refusal WHERE owner = %(owner)s)
    OR coalesce(r.outcome <> 'running', false)
    OR ((r.owner IS NULL OR s.lease_expires_at < coalesce(%(now)s, now()))
        AND %(seconds_left)s > coalesce(r.lease_seconds, %(longest)s) + 1) AS left_behind
FROM (SELECT) AS one
LEFT JOIN {schema}.scheduled_job_run r ON r.owner = %(owner)s
LEFT JOIN {schema}.scheduled_job_status s ON s.job_name = r.job_name AND s.owner = r.owner;
