"""What the page "Exclusive jobs" tells whom, on a real Postgres and Redis, and without a web server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from airflow_exclusive import JobGuard
from airflow_exclusive.airflow import config, connections
from airflow_exclusive.airflow.ui import reports as module
from airflow_exclusive.airflow.ui.reports import Refused, Reports, Visitor, answered
from airflow_exclusive.core.admission import Admitted, Attempt
from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.core.job import Source
from airflow_exclusive.core.settings import LeaseSettings

NOWHERE = "postgresql://127.0.0.1:1/nothing"


def of_dag(dag_id: str, deployment: str = "here") -> Source:
    return Source(deployment, dag_id, "manual__1", "work", try_number=1)


@dataclass
class Site:
    """Jobs, and a page that shows them to somebody who may read and change some DAGs."""

    guard: JobGuard
    recorded: list[tuple[str, Attempt, str]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def run(self, job: str, source: Source, **settings: Any) -> int:
        """Do it once; gives its token."""
        admission = self.guard.admit(job, source=source, settings=LeaseSettings(**settings))
        assert isinstance(admission, Admitted)
        with admission.lease as lease:
            return lease.token

    def seen_by(self, *, reads: set[str], changes: frozenset[str] | set[str] = frozenset()) -> Reports:
        def may(method: str, dag_id: str) -> bool:
            self.asked.append((method, dag_id))
            return dag_id in (reads if method == "GET" else changes)

        def record(*told: Any) -> None:
            self.recorded.append(told)

        return Reports(Visitor("ann", may), lambda source: f"/tasks/{source.task_id}", record)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, redis_url: str, database: str) -> Iterator[Site]:
    monkeypatch.setattr(config, "deployment", lambda: "here")
    monkeypatch.setattr(connections, "status_dsn", lambda: database)
    monkeypatch.setattr(connections, "open_guard", lambda *_: JobGuard(redis=redis_url, postgres=database))
    with JobGuard(redis=redis_url, postgres=database) as guard:
        yield Site(guard)


def names(told: dict[str, Any]) -> list[str]:
    return [job["job_name"] for job in told["jobs"]]


def test_jobs_are_shown_to_those_who_may_read_their_dags(site: Site) -> None:
    site.run("a", of_dag("mine"))
    site.run("b", of_dag("other"))
    site.run("c", Source())
    site.run("d", of_dag("mine", "another deployment"))
    assert names(site.seen_by(reads={"mine"}).jobs()) == ["a", "d"]
    assert names(site.seen_by(reads={"mine", ""}).jobs()) == ["a", "c", "d"]
    assert names(site.seen_by(reads=set()).jobs()) == []


def test_each_dag_is_asked_about_once(site: Site) -> None:
    for number in range(5):
        site.run(f"job {number}", of_dag("mine"))
    site.seen_by(reads={"mine"}).jobs()
    assert site.asked == [("GET", "mine")]


def test_only_tasks_of_this_deployment_are_linked(site: Site) -> None:
    site.run("a", of_dag("mine"))
    site.run("b", of_dag("mine", "another deployment"))
    site.run("c", Source(deployment="here"))
    shown = site.seen_by(reads={"mine", ""}).jobs()["jobs"]
    assert [job["task_page"] for job in shown] == ["/tasks/work", None, None]


def test_pages_of_jobs_leave_out_none_and_none_is_without_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 3)
    monkeypatch.setattr(module, "_BATCH", 2)
    monkeypatch.setattr(module, "_MOST_BATCHES", 2)
    for number in range(20):
        site.run(f"job {number:02}", of_dag("mine" if number % 5 == 0 else "other"))
    seen, after, answers = [], "", 0
    while after is not None:
        told = site.seen_by(reads={"mine"}).jobs(after=after)
        seen += names(told)
        after, answers = told["after"], answers + 1
        assert answers <= 7
    assert seen == ["job 00", "job 05", "job 10", "job 15"]
    everything = site.seen_by(reads={"mine", "other"}).jobs()
    assert (names(everything), everything["after"]) == (["job 00", "job 01", "job 02"], "job 02")


def test_a_jobs_history_has_what_the_visitor_may_see_of_it_and_counts_the_rest(site: Site) -> None:
    for source in (of_dag("mine"), of_dag("other"), of_dag("mine"), Source()):
        site.run("shared", source)
    told = site.seen_by(reads={"mine"}).history("shared")
    assert [run["fencing_token"] for run in told["attempts"]] == [3, 1]
    assert (told["job"], told["hidden"], told["before"]) == (None, 2, None)


def test_a_long_history_is_told_page_by_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    for _ in range(5):
        site.run("job", of_dag("mine"))
    reports = site.seen_by(reads={"mine"})
    tokens, before = [], None
    for _ in range(3):
        told = reports.history("job", before)
        tokens += [run["fencing_token"] for run in told["attempts"]]
        before = told["before"]
    assert (tokens, before) == ([5, 4, 3, 2, 1], None)


def test_refusals_are_told_too(site: Site) -> None:
    with site.guard.hold("job"):
        site.guard.admit("job", source=of_dag("mine"))
    (refused,) = site.seen_by(reads={"mine"}).history("job")["refusals"]
    assert (refused["reason"], refused["from"]) == ("busy", "here: mine.work manual__1 try 1")


@pytest.mark.parametrize(
    ("reads", "changes", "status"), [(set(), {"mine"}, 404), ({"mine"}, set(), 403), ({"mine"}, {"other"}, 403)]
)
def test_who_may_not_change_a_dags_tasks_does_not_release_them(
    site: Site, reads: set[str], changes: set[str], status: int
) -> None:
    admission = site.guard.admit("job", source=of_dag("mine"))
    assert isinstance(admission, Admitted)
    with admission.lease as lease:
        reports = site.seen_by(reads=reads, changes=changes)
        with pytest.raises(Refused) as refused:
            reports.release("job", lease.token, "test")
        assert refused.value.status == status
        assert [job["may_release"] for job in reports.jobs()["jobs"]] == [False] * len(reads)
        lease.ensure_held()
    assert site.recorded == []


def test_a_release_is_recorded_with_whose_attempt_it_was(site: Site) -> None:
    settings = LeaseSettings(on_lease_lost="warn")
    admission = site.guard.admit("job", source=of_dag("mine"), settings=settings)
    assert isinstance(admission, Admitted)
    lease = admission.lease
    reports = site.seen_by(reads={"mine"}, changes={"mine"})
    assert reports.release("job", lease.token, " it hangs ") == {"released": lease.token}
    ((who, attempt, reason),) = site.recorded
    assert (who, attempt.source.dag_id, reason) == ("ann", "mine", "it hangs (ann, in the UI of here)")
    assert site.guard.history("job")[0].error == reason
    with pytest.raises(Refused, match="look again"):  # as when its answer was lost, and it is sent again
        reports.release("job", lease.token, "it hangs")
    assert len(site.recorded) == 1
    lease._keeper.stop()


def test_a_release_that_the_audit_log_cannot_take_is_told_and_in_the_history(site: Site) -> None:
    admission = site.guard.admit("job", source=of_dag("mine"), settings=LeaseSettings(on_lease_lost="warn"))
    assert isinstance(admission, Admitted)
    reports = site.seen_by(reads={"mine"}, changes={"mine"})

    def fails(*_: Any) -> None:
        raise OSError("the metadata database is away")

    reports.record = fails
    status, text = answered(lambda: reports.release("job", admission.lease.token, "it hangs"))
    assert (status, "database is away" in json.loads(text)["error"]) == (500, True)
    assert (site.guard.history("job")[0].outcome, site.guard.history("job")[0].error) == (
        "released",
        "it hangs (ann, in the UI of here)",
    )
    admission.lease._keeper.stop()


def test_who_comes_while_an_attempt_is_being_released_is_left_alone_and_nothing_recorded(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission = site.guard.admit("job", source=of_dag("mine"))
    assert isinstance(admission, Admitted)
    opened, later = connections.open_guard, []

    def open_late(*given: Any) -> Any:
        admission.lease.finish()
        later.append(site.guard.admit("job", source=of_dag("mine")))
        return opened(*given)

    monkeypatch.setattr(connections, "open_guard", open_late)
    with pytest.raises(Refused, match="meanwhile"):
        site.seen_by(reads={"mine"}, changes={"mine"}).release("job", admission.lease.token, "test")
    (successor,) = later
    with successor.lease as lease:
        lease.ensure_held()
    assert site.recorded == []
    assert [run.outcome for run in site.guard.history("job")] == ["success", "success"]


# errors


@pytest.mark.parametrize(
    ("dsn", "says"),
    [(NOWHERE, "doesn't answer"), (InvalidSetting("postgres_conn_id", "exclusive_postgres", "create it"), "create it")],
)
def test_a_status_database_that_is_away_or_unknown_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, dsn: str | Exception, says: str
) -> None:
    def given() -> str:
        if isinstance(dsn, Exception):
            raise dsn
        return dsn

    monkeypatch.setattr(connections, "status_dsn", given)
    status, text = answered(lambda: site.seen_by(reads=set()).jobs())
    assert (status, says in json.loads(text)["error"]) == (503, True)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 500])
def test_a_name_that_no_job_can_have_is_told(site: Site, name: str) -> None:
    status, text = answered(lambda: site.seen_by(reads=set()).history(name))
    assert (status, "job_name" in json.loads(text)["error"]) == (400, True)


def test_times_are_told_as_text(site: Site) -> None:
    site.run("a", of_dag("mine"))
    status, text = answered(lambda: site.seen_by(reads={"mine"}).jobs())
    (job,) = json.loads(text)["jobs"]
    assert (status, job["last_run_at"][10]) == (200, "T")
