"""The two deployments' REST APIs, as the admin of `.env`: as much of them as a rehearsal needs."""

from __future__ import annotations

from typing import Any

import httpx

ADMIN = "admin"


class Web:
    """One deployment; `http` carries its address and the login."""

    def __init__(self, name: str, http: httpx.Client) -> None:
        self.name = name
        self._http = http

    def unpause(self, dag: str) -> bool:
        """Whether that was possible: the DAG may not have been read yet."""
        answer = self._http.patch(f"/dags/{dag}", json={"is_paused": False})
        if answer.status_code == httpx.codes.NOT_FOUND:
            return False
        answer.raise_for_status()
        return True

    def states(self, dag: str) -> list[str]:
        """Of the DAG's runs."""
        runs = self._http.get(f"/dags/{dag}/dagRuns", params={"limit": 100}).raise_for_status().json()["dag_runs"]
        return [run["state"] for run in runs]

    def _post(self, path: str, body: dict[str, Any]) -> None:
        self._http.post(path, json=body).raise_for_status()


class Full(Web):
    """Airflow 3."""

    def __init__(self, address: str, password: str) -> None:
        url = f"http://{address}"
        login = httpx.post(f"{url}/auth/token", json={"username": ADMIN, "password": password}, trust_env=False)
        token = login.raise_for_status().json()["access_token"]
        super().__init__("full", _client(f"{url}/api/v2", headers={"Authorization": f"Bearer {token}"}))

    def backfill(self, dag: str, first: str, last: str, *, at_once: int) -> None:
        """Ask for all ticks between two fire times, the last one first."""
        span = {"from_date": first, "to_date": last, "run_backwards": True}
        self._post("/backfills", {"dag_id": dag, "max_active_runs": at_once, **span})


class Mini(Web):
    """Airflow 2."""

    def __init__(self, address: str, password: str) -> None:
        super().__init__("mini", _client(f"http://{address}/api/v1", auth=(ADMIN, password)))

    def trigger(self, dag: str, tick: str) -> None:
        """Ask for one tick: that of a manual run is its run id, so it is named like the tick."""
        self._post(f"/dags/{dag}/dagRuns", {"dag_run_id": tick, "logical_date": tick})


def _client(url: str, **login: Any) -> httpx.Client:
    # No proxy of the environment's: it is on this machine.
    return httpx.Client(base_url=url, timeout=60, trust_env=False, **login)
