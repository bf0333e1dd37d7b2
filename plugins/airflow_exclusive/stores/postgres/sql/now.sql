-- The database's clock, as seconds since the epoch. One row.
SELECT extract(epoch FROM coalesce(%(now)s, now()))::float8 AS now;
