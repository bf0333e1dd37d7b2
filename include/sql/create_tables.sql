-- The source, and the two tables that are rolled up into. Safe on two nodes at once: the lock ends with the transaction.
SELECT pg_advisory_xact_lock(hashtext('flights'));

CREATE TABLE IF NOT EXISTS flights (
    year            integer NOT NULL,
    month           integer NOT NULL,
    day             integer NOT NULL,
    dep_time        integer,
    sched_dep_time  integer,
    dep_delay       integer,
    arr_time        integer,
    sched_arr_time  integer,
    arr_delay       integer,
    carrier         text,
    flight          integer,
    tailnum         text,
    origin          text,
    dest            text,
    air_time        integer,
    distance        integer,
    hour            integer,
    minute          integer,
    time_hour       timestamptz
);

CREATE TABLE IF NOT EXISTS flights_by_day (
    day             date PRIMARY KEY,
    flights         bigint NOT NULL
);

CREATE TABLE IF NOT EXISTS flights_by_day_unguarded (
    day             date PRIMARY KEY,
    flights         bigint NOT NULL
);
