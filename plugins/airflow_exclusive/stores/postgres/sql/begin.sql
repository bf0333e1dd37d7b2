-- Until the end of the transaction: notice within 25 s that the machine at the other end has vanished, and know it from
-- another transaction (see intact.sql).
SET LOCAL tcp_keepalives_idle = 10;
SET LOCAL tcp_keepalives_interval = 5;
SET LOCAL tcp_keepalives_count = 3;
SET LOCAL airflow_exclusive.fenced = 'yes'
