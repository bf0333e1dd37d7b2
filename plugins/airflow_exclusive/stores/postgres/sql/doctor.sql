-- How the server and the tables are. One row.
--   connections, usable_connections  of clients, and how many may be open at a time without a superuser's privilege
--   standbys                         who gets the WAL of the whole server: standbys, or what archives it
SELECT
    current_setting('server_version_num')::int AS version,
    current_setting('server_version') AS version_text,
    pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS read_only,
    current_user AS role,
    extract(epoch FROM clock_timestamp())::float8 AS clock,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        AS usable_connections,
    (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL) AS connections,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS synchronous_standby_names,
    (SELECT count(*) FROM pg_stat_replication r JOIN pg_stat_activity a USING (pid) WHERE a.datid IS NULL) AS standbys,
    to_regclass('{schema}.scheduled_job_status') IS NOT NULL AS has_status,
    to_regclass('{schema}.scheduled_job_effect') IS NOT NULL AS has_effects,
    to_regclass('{schema}.schema_migration') IS NOT NULL AS has_migrations
