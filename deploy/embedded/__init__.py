"""A whole deployment on one machine with nothing but Python: PostgreSQL, Valkey and Airflow as child processes.

`EmbeddedPostgres` and `EmbeddedValkey` are the servers, `AirflowDeployment` is Airflow on top of them, `Stack` is all
of it together, of the kind that its `Profile` says. Each is a context manager; what it started is gone when the context
ends. `python -m deploy.embedded up` leaves a stack running in the background instead.
"""

from deploy.embedded.airflow import AirflowDeployment
from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.stack import CELERY, FULL, MINI, Profile, Stack
from deploy.embedded.valkey import EmbeddedValkey

__all__ = ["CELERY", "FULL", "MINI", "AirflowDeployment", "EmbeddedPostgres", "EmbeddedValkey", "Profile", "Stack"]
