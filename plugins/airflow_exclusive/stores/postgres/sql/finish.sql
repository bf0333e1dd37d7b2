-- Close an attempt: what the ledger has for it now (functions/3_finish_attempt.sql).
SELECT {schema}.finish_attempt(
    %(job_name)s, %(owner)s, %(fencing_token)s, %(outcome)s, %(error)s, %(result)s, %(hold_at_least)s, %(now)s
) AS outcome
