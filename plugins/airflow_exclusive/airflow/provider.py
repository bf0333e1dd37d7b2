"""Provider metadata: the Providers page, the configuration reference and `@task.exclusive`."""

from __future__ import annotations

from typing import Any

from airflow_exclusive import __version__


def get_provider_info() -> dict[str, Any]:
    return {
        "package-name": "airflow-exclusive",
        "name": "Exclusive jobs",
        "description": "Jobs that run on exactly one node, once per tick: Redis locks admit, a Postgres status table"
        " remembers and allows takeover.",
        "versions": [__version__],
        "task-decorators": [{"name": "exclusive", "class-name": "airflow_exclusive.airflow.decorators.exclusive_task"}],
        "config": {
            "exclusive": {
                "description": "Exclusive jobs: where their locks and their status are kept.",
                "options": {
                    "redis_conn_id": _option("Connection of the Redis server that holds the locks.", "exclusive_redis"),
                    "postgres_conn_id": _option(
                        "Connection of the PostgreSQL database that holds the status tables.", "exclusive_postgres"
                    ),
                    "schema": _option("Schema of the status tables.", "exclusive"),
                    "deployment": _option(
                        "Name of this deployment in the history. Two deployments that share the stores need different"
                        " names; left empty it is the address of the UI.",
                        "",
                    ),
                },
            }
        },
    }


def _option(description: str, default: str) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "string",
        "example": None,
        "default": default,
    }
