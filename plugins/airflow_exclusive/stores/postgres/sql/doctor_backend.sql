-- The server's process that answers. Behind a pooler it isn't the one that was connected to, and may change.
SELECT pg_backend_pid()
