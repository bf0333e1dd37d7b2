-- The status table (the tutorial's four columns first), the ledger of attempts, and who was refused.
-- Keys are compared byte by byte: an index in a language's order breaks when an upgrade of the system changes that order.
-- Domains, since Postgres parses the CHECK of a table again at every statement, which costs as much as an index does.

CREATE DOMAIN {schema}.job_status AS text CHECK (VALUE IN ('success', 'failed', 'running'));
CREATE DOMAIN {schema}.attempt_outcome AS text
    CHECK (VALUE IN ('running', 'success', 'failed', 'taken_over', 'released'));

CREATE TABLE {schema}.scheduled_job_status (
    job_name         text COLLATE "C" PRIMARY KEY,
    last_run_at      timestamptz,
    status           {schema}.job_status,
    node_id          text,
    owner            text,
    fencing_token    bigint NOT NULL DEFAULT 0,
    run_key          text,
    generation       integer,
    attempt          integer,
    started_at       timestamptz,
    heartbeat_at     timestamptz,
    lease_expires_at timestamptz,
    hold_until       timestamptz
) WITH (fillfactor = 70);

COMMENT ON TABLE {schema}.scheduled_job_status IS 'One row per job: who runs it or ran it last';
COMMENT ON COLUMN {schema}.scheduled_job_status.last_run_at IS 'When the last attempt that finished did so';
COMMENT ON COLUMN {schema}.scheduled_job_status.fencing_token IS 'Grows with every claim of the job, never falls';
COMMENT ON COLUMN {schema}.scheduled_job_status.hold_until IS 'Nobody is admitted before (hold_at_least)';

CREATE TABLE {schema}.scheduled_job_run (
    job_name         text COLLATE "C" NOT NULL,
    run_key          text COLLATE "C" NOT NULL,
    generation       integer NOT NULL,
    attempt          integer NOT NULL,
    fencing_token    bigint NOT NULL,
    owner            text COLLATE "C" NOT NULL UNIQUE,
    node_id          text NOT NULL,
    outcome          {schema}.attempt_outcome NOT NULL,
    started_at       timestamptz NOT NULL,
    finished_at      timestamptz,
    error            text,
    result           text,
    took_over        text,
    lease_seconds    double precision NOT NULL,
    renewed          boolean NOT NULL,
    deployment       text NOT NULL DEFAULT '',
    dag_id           text NOT NULL DEFAULT '',
    run_id           text NOT NULL DEFAULT '',
    task_id          text NOT NULL DEFAULT '',
    map_index        integer NOT NULL DEFAULT -1,
    try_number       integer NOT NULL DEFAULT 0,
    confirmed_try    integer,
    PRIMARY KEY (job_name, fencing_token)
);

COMMENT ON TABLE {schema}.scheduled_job_run IS 'One row per attempt, never overwritten once it has ended';
COMMENT ON COLUMN {schema}.scheduled_job_run.result IS 'What the success gives to a retry that only finds it done; JSON';
COMMENT ON COLUMN {schema}.scheduled_job_run.took_over IS 'Owner of the attempt that this one ended';
COMMENT ON COLUMN {schema}.scheduled_job_run.renewed IS 'Whether the lease was renewed while the attempt ran, or fixed';
COMMENT ON COLUMN {schema}.scheduled_job_run.confirmed_try IS 'Last try for which Airflow has shown this success';

-- The backstop: whatever the statements do, these two can't be broken.
CREATE UNIQUE INDEX scheduled_job_run_one_running ON {schema}.scheduled_job_run (job_name)
    WHERE outcome = 'running';
CREATE UNIQUE INDEX scheduled_job_run_one_success ON {schema}.scheduled_job_run (job_name, run_key, generation)
    WHERE outcome = 'success';
CREATE INDEX scheduled_job_run_by_tick ON {schema}.scheduled_job_run (job_name, run_key, generation, attempt);

CREATE TABLE {schema}.scheduled_job_refusal (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_name         text COLLATE "C" NOT NULL,
    run_key          text COLLATE "C" NOT NULL,
    reason           text NOT NULL CHECK (reason IN ('busy', 'done', 'stale', 'withdrawn')),
    node_id          text NOT NULL,
    owner            text COLLATE "C" NOT NULL,
    refused_at       timestamptz NOT NULL,
    detail           text NOT NULL,
    deployment       text NOT NULL DEFAULT '',
    dag_id           text NOT NULL DEFAULT '',
    run_id           text NOT NULL DEFAULT '',
    task_id          text NOT NULL DEFAULT '',
    map_index        integer NOT NULL DEFAULT -1,
    try_number       integer NOT NULL DEFAULT 0
);

COMMENT ON TABLE {schema}.scheduled_job_refusal IS
    'Final refusals: busy and done at admission, stale for a write of an attempt that had ended, withdrawn by the asker';

CREATE INDEX scheduled_job_refusal_by_job ON {schema}.scheduled_job_refusal (job_name, refused_at, id);
CREATE UNIQUE INDEX scheduled_job_refusal_once ON {schema}.scheduled_job_refusal (owner, reason, md5(detail));
