-- Notice within 25 s that the machine at the other end has vanished, until the end of the transaction.
SET LOCAL tcp_keepalives_idle = 10;
SET LOCAL tcp_keepalives_interval = 5;
SET LOCAL tcp_keepalives_count = 3
