-- In the database that receives a job's effects: which steps are committed, and the highest token seen.
-- Keys are compared byte by byte: an index in a language's order breaks when an upgrade of the system changes that order.

CREATE TABLE {schema}.scheduled_job_effect (
    job_name         text COLLATE "C" NOT NULL,
    run_key          text COLLATE "C" NOT NULL,
    generation       integer NOT NULL,
    step             text COLLATE "C" NOT NULL,
    fencing_token    bigint NOT NULL,
    committed_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_name, run_key, generation, step)
);

CREATE TABLE {schema}.scheduled_job_fence (
    job_name         text COLLATE "C" PRIMARY KEY,
    fencing_token    bigint NOT NULL
) WITH (fillfactor = 70);

COMMENT ON TABLE {schema}.scheduled_job_effect IS 'Steps whose writes are committed: none of them is done twice';
COMMENT ON TABLE {schema}.scheduled_job_fence IS 'Highest fencing token seen: a smaller one is refused';
