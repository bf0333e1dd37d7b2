"""What docker-compose.yml needs besides itself.

`env` writes `.env`, `prepare` makes the databases and roles, and `python -m deploy.compose` rehearses it all on an
engine, with a worker killed in the middle of a job.
"""
