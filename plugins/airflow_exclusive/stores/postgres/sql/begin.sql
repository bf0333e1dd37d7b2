-- Until the end of the transaction: notice within 25 s that the machine at the other end has vanished, and know it from
-- another transaction (see intact.sql). No row: it was fenced already, by a step around this one.
SELECT
    set_config('tcp_keepalives_idle', '10', true),
    set_config('tcp_keepalives_interval', '5', true),
    set_config('tcp_keepalives_count', '3', true),
    set_config('airflow_exclusive.fenced', 'yes', true)
WHERE current_setting('airflow_exclusive.fenced', true) IS DISTINCT FROM 'yes'
