"""The truth: who runs, what was done, who may write. One `.sql` file for each verb of `StatusStore`.

In the files `{schema}` stands for the quoted schema name, `%(name)s` are parameters, as psycopg and psycopg2 both read
them. Every time comes from the database: `coalesce(%(now)s, now())`, where `now` is only given by tests. What has to
see several rows in one atomic step is a function of the database, in `functions/`.
"""
