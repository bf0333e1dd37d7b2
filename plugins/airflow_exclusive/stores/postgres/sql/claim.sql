-- Ask for one tick: a row for whoever is admitted (functions/2_claim_tick.sql).
SELECT * FROM {schema}.claim_tick(
    %(job_name)s, %(run_key)s, %(owner)s, %(node_id)s, %(ttl)s, %(renew)s, %(rerun)s,
    %(deployment)s, %(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s, %(try_number)s, %(cleared_tries)s, %(now)s
)
