-- Safe on two nodes at once: the lock ends with the transaction.
SELECT pg_advisory_xact_lock(hashtext('account'));

CREATE TABLE IF NOT EXISTS account (
    name            text PRIMARY KEY,
    balance         bigint NOT NULL
);
