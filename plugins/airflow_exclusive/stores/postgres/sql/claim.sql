-- Ask for one tick: what whoever is admitted has got, null for everybody else (functions/2_claim_attempt.sql).
SELECT {schema}.claim_attempt(
    %(job_name)s, %(run_key)s, %(owner)s, %(node_id)s, %(ttl)s, %(renew)s, %(rerun)s,
    %(deployment)s, %(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s, %(try_number)s, %(cleared_tries)s, %(now)s
) AS claimed
