"""The link from a guarded task instance to its job."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator, BaseOperatorLink
from airflow.providers.standard.operators.empty import EmptyOperator

from airflow_exclusive import ExclusiveBashOperator, exclusive
from airflow_exclusive.airflow import link
from airflow_exclusive.airflow.compat import AIRFLOW_V_3_0_PLUS
from airflow_exclusive.airflow.link import ExclusiveJobLink, page_path
from tests.airflow.compat import deserialized, serialized

ROOT = "/plugin/exclusive-jobs" if AIRFLOW_V_3_0_PLUS else "/exclusive-jobs/"


class Elsewhere(BaseOperatorLink):
    name = "Elsewhere"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return "https://example.org"


class Linked(BaseOperator):
    operator_extra_links = (Elsewhere(),)

    def execute(self, context: Any) -> None: ...


class LinkedByProperty(BaseOperator):
    @property
    def operator_extra_links(self) -> Any:  # type: ignore[override]
        return (Elsewhere(),)

    def execute(self, context: Any) -> None: ...


def links(operator: Any) -> list[str]:
    return [each.name for each in operator.operator_extra_links]


def test_every_guarded_operator_has_it_once_beside_its_own() -> None:
    class Further(exclusive(Linked)):  # type: ignore[misc]
        """A class of somebody's own."""

    assert links(ExclusiveBashOperator(task_id="work", bash_command="true")) == ["Exclusive job"]
    assert links(exclusive(EmptyOperator)(task_id="work")) == ["Exclusive job"]
    assert links(exclusive(Linked)(task_id="work")) == ["Elsewhere", "Exclusive job"]
    assert links(Further(task_id="work")) == ["Elsewhere", "Exclusive job"]


def test_an_operator_that_finds_its_links_itself_keeps_those() -> None:
    assert links(exclusive(LinkedByProperty)(task_id="work")) == ["Elsewhere"]


def test_dags_with_it_survive_the_way_through_the_database() -> None:
    with DAG("linked", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None) as dag:
        exclusive(EmptyOperator)(task_id="work")
        exclusive(EmptyOperator).partial(task_id="mapped").expand(job_name=["a", "b"])
    back = deserialized(serialized(dag))
    assert {task.task_id: links(task) for task in back.tasks} == {
        "work": ["Exclusive job"],
        "mapped": ["Exclusive job"],
    }


@pytest.mark.parametrize(
    ("base_url", "path"), [("", ""), ("http://localhost:8080", ""), ("https://a.b/airflow/", "/airflow")]
)
def test_it_leads_to_the_job_below_wherever_the_ui_is(
    monkeypatch: pytest.MonkeyPatch, base_url: str, path: str
) -> None:
    section = "API" if AIRFLOW_V_3_0_PLUS else "WEBSERVER"
    monkeypatch.setenv(f"AIRFLOW__{section}__BASE_URL", base_url)
    assert page_path() == f"{path}{ROOT}"
    assert page_path("a/b 100%&c#d备") == f"{path}{ROOT}?job=a%2Fb%20100%25%26c%23d%E5%A4%87"


def test_it_leads_nowhere_before_the_task_has_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_told", lambda _: {})
    operator = ExclusiveBashOperator(task_id="work", bash_command="true")
    assert ExclusiveJobLink().get_link(operator, ti_key=None) == ""
    monkeypatch.setattr(link, "_told", lambda _: {"job_name": "job"})
    operator.exclusive_asked_for = "job"
    assert ExclusiveJobLink().get_link(operator, ti_key=None) == page_path("job")
