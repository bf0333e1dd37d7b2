-- How the server and the tables are. One row.
SELECT
    current_setting('server_version_num')::int AS version,
    current_setting('server_version') AS version_text,
    pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS read_only,
    current_user AS role,
    inet_server_port() AS server_port,
    extract(epoch FROM clock_timestamp())::float8 AS clock,
    current_setting('max_connections')::int AS max_connections,
    (SELECT count(*) FROM pg_stat_activity) AS connections,
    to_regclass('{schema}.scheduled_job_status') IS NOT NULL AS has_status,
    to_regproc('{schema}.claim_attempt') IS NOT NULL AND to_regproc('{schema}.finish_attempt') IS NOT NULL AS has_functions,
    to_regclass('{schema}.scheduled_job_effect') IS NOT NULL AS has_effects,
    to_regclass('{schema}.schema_migration') IS NOT NULL AS has_migrations
