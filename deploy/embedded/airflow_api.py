"""A small client for Airflow's REST API, with waits that end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Mapping
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import jwt

T = TypeVar("T")
Json = dict[str, Any]

FINISHED = frozenset({"success", "failed"})
"""States in which a DAG run stays."""
TASK_FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""States in which a task instance stays."""


class OwnToken(httpx.Auth):
    """A token as `url` gives it to anybody, in a deployment where all are admins.

    It is taken only if it was signed with `secret`: else httpx.RequestError, for another deployment has the port.
    """

    requires_response_body = True

    def __init__(self, url: str, secret: str) -> None:
        self._url = url
        self._secret = secret
        self._token: str | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._token is not None and (yield self._signed(request)).status_code != httpx.codes.UNAUTHORIZED:
            return
        response = yield httpx.Request("GET", self._url)
        self._token = self._checked(response.raise_for_status())
        yield self._signed(request)

    def _checked(self, response: httpx.Response) -> str:
        try:
            token = str(response.json()["access_token"])
            jwt.decode(token, self._secret, algorithms=["HS512"], options={"verify_aud": False})
        except (jwt.InvalidTokenError, ValueError, KeyError, TypeError) as error:
            raise httpx.RequestError(f"{self._url} isn't ours: {error!r}", request=response.request) from error
        return token

    def _signed(self, request: httpx.Request) -> httpx.Request:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class AirflowApi:
    """Version 2 of the API, that of Airflow 3.

    Every wait raises TimeoutError, saying what it last saw. HTTP errors are httpx's own, with the answer's text.
    """

    def __init__(self, base_url: str, auth: httpx.Auth) -> None:
        self.base_url = base_url
        # No proxy of the environment's: the server is on this machine. And no connection kept open between calls: a
        # deployment may be stopped and left at any time.
        self._http = httpx.Client(
            auth=auth, timeout=30, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def close(self) -> None:
        self._http.close()

    # plain calls

    def get_json(self, url: str) -> Json:
        """An address that needs no login."""
        answer: Json = self._http.get(url, auth=None, timeout=5).raise_for_status().json()
        return answer

    def call(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, Any] | None = None,
        accept: str = "application/json",
        timeout: float = 30,
    ) -> httpx.Response:
        """A call to `path` below the API's root; raises httpx.HTTPStatusError unless it succeeded."""
        response = self._http.request(
            method, f"{self.base_url}{path}", json=json, params=params, headers={"Accept": accept}, timeout=timeout
        )
        if response.is_error:
            raise httpx.HTTPStatusError(
                f"{method} {response.url}: {response.status_code} {response.text}",
                request=response.request,
                response=response,
            )
        return response

    def get(self, path: str, **params: Any) -> Json:
        answer: Json = self.call("GET", path, params=params).json()
        return answer

    def post(self, path: str, body: Mapping[str, Any]) -> Json:
        answer: Json = self.call("POST", path, json=body).json()
        return answer

    # DAGs

    def dags(self) -> list[Json]:
        return list(self.get("/dags", limit=100)["dags"])

    def import_errors(self) -> dict[str, str]:
        """File name -> traceback, of DAG files that failed to load."""
        return {error["filename"]: error["stack_trace"] for error in self.get("/importErrors")["import_errors"]}

    def wait_for_dag(self, dag_id: str, *, timeout: float = 60) -> Json:
        """The DAG, once the DAG processor has found it."""

        def found() -> Json | None:
            try:
                return self.get(f"/dags/{quote(dag_id)}")
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.NOT_FOUND:
                    return None
                raise

        return self._wait(found, timeout, lambda: f"no DAG {dag_id}; import errors: {self.import_errors()}")

    def pause(self, dag_id: str, *, paused: bool = True) -> None:
        self.call("PATCH", f"/dags/{quote(dag_id)}", json={"is_paused": paused})

    def unpause(self, dag_id: str) -> None:
        self.pause(dag_id, paused=False)

    # runs

    def trigger_dag(
        self,
        dag_id: str,
        *,
        conf: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        logical_date: datetime | None = None,
    ) -> str:
        """Make a run by hand and return its id."""
        body: Json = {"logical_date": logical_date.isoformat() if logical_date else None, "conf": dict(conf or {})}
        if run_id is not None:
            body["dag_run_id"] = run_id
        return str(self.post(f"/dags/{quote(dag_id)}/dagRuns", body)["dag_run_id"])

    def backfill(self, dag_id: str, start: datetime, end: datetime, **options: Any) -> int:
        """Make the runs between two dates and return the backfill's id."""
        body = {"dag_id": dag_id, "from_date": start.isoformat(), "to_date": end.isoformat(), **options}
        # a second for ten runs, which are made before it answers
        return int(self.call("POST", "/backfills", json=body, timeout=300).json()["id"])

    def dag_runs(self, dag_id: str) -> list[Json]:
        return list(self.get(f"/dags/{quote(dag_id)}/dagRuns", limit=100)["dag_runs"])

    def count_runs(self, dag_id: str, *states: str) -> int:
        """How many runs are in one of these states, or how many there are."""
        return int(self.get(f"/dags/{quote(dag_id)}/dagRuns", limit=1, state=list(states))["total_entries"])

    def dag_run(self, dag_id: str, run_id: str) -> Json:
        return self.get(_run(dag_id, run_id))

    def wait_for_run(
        self, dag_id: str, run_id: str, *, states: Collection[str] = FINISHED, timeout: float = 120
    ) -> str:
        """The run's state, once it is one of `states`."""

        def reached() -> str | None:
            state = self.dag_run(dag_id, run_id)["state"]
            return str(state) if state in states else None

        def seen() -> str:
            tasks = {task["task_id"]: task["state"] for task in self.task_instances(dag_id, run_id)}
            return f"run {run_id} of {dag_id} is {self.dag_run(dag_id, run_id)['state']}, its tasks are {tasks}"

        return self._wait(reached, timeout, seen)

    # tasks

    def task_instances(self, dag_id: str, run_id: str) -> list[Json]:
        return list(self.get(f"{_run(dag_id, run_id)}/taskInstances", limit=100)["task_instances"])

    def task_instance(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> Json:
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}"
        return self.get(path if map_index < 0 else f"{path}/{map_index}")

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        *,
        states: Collection[str] = TASK_FINISHED,
        map_index: int = -1,
        timeout: float = 120,
    ) -> Json:
        """The task instance, once its state is one of `states`."""

        def reached() -> Json | None:
            task = self.task_instance(dag_id, run_id, task_id, map_index=map_index)
            return task if task["state"] in states else None

        def seen() -> str:
            return f"{task_id} is {self.task_instance(dag_id, run_id, task_id, map_index=map_index)['state']}"

        return self._wait(reached, timeout, seen)

    def clear(self, dag_id: str, run_id: str, *task_ids: str) -> None:
        """Clear task instances, whatever their state, as a person does in the UI."""
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": list(task_ids), "only_failed": False}
        body["reset_dag_runs"] = True
        self.post(f"/dags/{quote(dag_id)}/clearTaskInstances", body)

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task instance as "success" or "failed", whatever its state, as a person does in the UI."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}"
        self.call("PATCH", path, json={"new_state": state}, params={"update_mask": "new_state"})

    def tries(self, dag_id: str, run_id: str, task_id: str) -> list[Json]:
        """Every try of a task instance, the current one included, oldest first."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}/tries"
        return sorted(self.get(path)["task_instances"], key=lambda one: int(one["try_number"]))

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", *, map_index: int = -1) -> Any:
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries/{quote(key)}"
        return self.get(path, deserialize=False, map_index=map_index)["value"]

    def task_log(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1) -> str:
        """What the try logged, one line per event, with the errors that it tells of."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}/logs/{try_number}"
        content = self.get(path, map_index=map_index, full_content=True)["content"]
        return "\n".join(event if isinstance(event, str) else _line(event) for event in content)

    @staticmethod
    def _wait(probe: Callable[[], T | None], timeout: float, seen: Callable[[], str]) -> T:
        deadline = time.monotonic() + timeout
        while True:
            answer = probe()
            if answer is not None:
                return answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout:g} s: {seen()}")
            time.sleep(0.25)


class AirflowApiV1(AirflowApi):
    """Version 1, that of Airflow 2. It knows no backfills: those are the command line's."""

    def trigger_dag(
        self,
        dag_id: str,
        *,
        conf: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        logical_date: datetime | None = None,
    ) -> str:
        body: Json = {"conf": dict(conf or {})}
        if logical_date is not None:
            body["logical_date"] = logical_date.isoformat()
        if run_id is not None:
            body["dag_run_id"] = run_id
        return str(self.post(f"/dags/{quote(dag_id)}/dagRuns", body)["dag_run_id"])

    def backfill(self, dag_id: str, start: datetime, end: datetime, **options: Any) -> int:
        raise NotImplementedError("airflow dags backfill does that")

    def clear(self, dag_id: str, run_id: str, *task_ids: str) -> None:
        if {task["task_id"] for task in self.task_instances(dag_id, run_id)} <= set(task_ids):
            # The call for single tasks, unlike the UI, forgets those that are running.
            self.post(f"{_run(dag_id, run_id)}/clear", {"dry_run": False})
        else:
            super().clear(dag_id, run_id, *task_ids)

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}"
        self.call("PATCH", path, json={"new_state": state, "dry_run": False})

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", *, map_index: int = -1) -> Any:
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries/{quote(key)}"
        return self.get(path, stringify=False, map_index=map_index)["value"]

    def task_log(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1) -> str:
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}/logs/{try_number}"
        return self.call("GET", path, params={"map_index": map_index, "full_content": True}, accept="text/plain").text


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _line(event: Json) -> str:
    errors = [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in event.get("error_detail") or ()]
    return " ".join([str(event.get("event", "")), *errors])
