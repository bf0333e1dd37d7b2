"""The steps of docs/migration.md: Airflow 2.11 is blue and hands over to 3.3, green."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import psycopg
import pytest

from airflow_exclusive import JobGuard
from airflow_exclusive.core.admission import Attempt
from deploy.embedded.stack import MINI
from tests.side_by_side.conftest import DONE, PATIENCE, Deployment, text
from tests.side_by_side.dags.migrated import BY_HAND, LOADED, PUBLISHED, SCHEDULED, THROUGH, TICKS
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(600)

HAND_MADE = "made-by-hand"


@pytest.fixture
def blue(deployments: tuple[Deployment, Deployment]) -> Deployment:
    if deployments[1].stack.profile is not MINI:
        pytest.skip("both are of one version: there is nothing to migrate")
    return deployments[1]


@pytest.fixture
def green(deployments: tuple[Deployment, Deployment]) -> Deployment:
    return deployments[0]


@pytest.fixture
def guard(green: Deployment) -> Iterator[JobGuard]:
    with JobGuard(redis=green.stack.redis_url, postgres=green.stack.status_dsn) as opened:
        yield opened


@pytest.fixture
def let_through(green: Deployment) -> Iterator[Callable[[str], None]]:
    """Ticks up to this one may come to their end; in the end all, since a held task stops all of blue."""

    def write(run_key: str) -> None:
        partial = green.folder / f"{THROUGH}.new"
        partial.write_text(run_key)
        partial.rename(green.folder / THROUGH)

    write("")
    yield write
    write(TICKS[-1])


def by_deployment(attempts: Sequence[Attempt]) -> list[tuple[str, str, str]]:
    """Tick, outcome and deployment of each attempt, oldest first."""
    return [(one.run_key, one.outcome, one.source.deployment) for one in reversed(attempts)]


def test_blue_hands_over_to_green(
    blue: Deployment, green: Deployment, guard: JobGuard, let_through: Callable[[str], None]
) -> None:
    first, second, third = TICKS

    def states(deployment: Deployment, task_id: str) -> dict[str, str]:
        return deployment.states(SCHEDULED, task_id)

    def attempts(job: str = LOADED) -> list[tuple[str, str, str]]:
        return by_deployment(guard.history(job))

    # Blue has done a tick and is at the next one.
    let_through(first)
    blue.begin(SCHEDULED)
    begun = [(first, "success", "mini"), (second, "running", "mini")]
    eventually(lambda: attempts() == begun, timeout=PATIENCE, every=0.5)

    # Green joins: what is done is skipped, and it stands by at the tick that blue is at.
    green.begin(SCHEDULED)
    eventually(lambda: states(green, "load") == {first: "skipped", second: green.waits_as}, timeout=PATIENCE, every=0.5)
    done = guard.history(LOADED, run_key=first)[0]
    (skipped,) = [task for task in green.tasks(SCHEDULED, "load") if task["run_key"] == first]
    assert done.node_id in text(skipped["told"])
    assert done.node_id in green.api.task_log(SCHEDULED, skipped["run_id"], "load")
    assert states(green, "after_load")[first] == "skipped"
    assert states(green, "publish")[first] == states(green, "after_publish")[first] == "success"

    # Blue is paused: what runs there ends, what waits in green goes on, and further ticks are green's.
    blue.api.pause(SCHEDULED)
    let_through(third)
    eventually(
        lambda: states(green, "after_load") == {first: "skipped", second: "skipped", third: "success"},
        timeout=PATIENCE,
        every=0.5,
    )
    assert states(green, "load") == {first: "skipped", second: "skipped", third: "success"}
    assert states(blue, "load") == {first: "success", second: "success"}
    assert states(blue, "after_load")[second] not in DONE, "a paused DAG starts no further task"

    # Once more, for what follows in the run that was under way.
    blue.api.unpause(SCHEDULED)
    through = {first: "success", second: "success", third: "skipped"}
    eventually(lambda: states(blue, "after_load") == through, timeout=PATIENCE, every=0.5)
    assert states(blue, "load") == through
    for deployment in (blue, green):
        for task_id in ("publish", "after_publish"):
            eventually(
                lambda deployment=deployment, task_id=task_id: (
                    states(deployment, task_id)  # type: ignore[misc]
                    == dict.fromkeys(TICKS, "success")
                ),
                timeout=PATIENCE,
                every=0.5,
            )
    assert attempts() == [(first, "success", "mini"), (second, "success", "mini"), (third, "success", "full")]
    assert [(run_key, outcome) for run_key, outcome, _ in attempts(PUBLISHED)] == [(tick, "success") for tick in TICKS]


def test_runs_by_hand_are_ticks_by_their_run_id(blue: Deployment, green: Deployment, guard: JobGuard) -> None:
    runs = {}
    for deployment in (blue, green):
        deployment.begin(BY_HAND)
        runs[deployment.name] = deployment.api.trigger_dag(BY_HAND)
    for deployment in (blue, green):
        task = deployment.api.wait_for_task(BY_HAND, runs[deployment.name], "work", timeout=PATIENCE)
        assert task["state"] == "success"

    one, other = reversed(guard.history(BY_HAND))
    assert {one.source.deployment: one.run_key, other.source.deployment: other.run_key} == runs
    assert one.finished_at is not None
    assert one.finished_at <= other.started_at


def test_clearing_runs_again_only_where_it_had_run(blue: Deployment, green: Deployment, guard: JobGuard) -> None:
    def run(deployment: Deployment) -> str:
        deployment.begin(BY_HAND)
        deployment.api.trigger_dag(BY_HAND, run_id=HAND_MADE)
        return ended(deployment)

    def ended(deployment: Deployment) -> str:
        """What became of the task, once its run has ended: Airflow loses a clear that comes sooner."""
        deployment.api.wait_for_run(BY_HAND, HAND_MADE, timeout=PATIENCE)
        return str(deployment.api.task_instance(BY_HAND, HAND_MADE, "work")["state"])

    def told_done() -> list[str]:
        refusals = guard.refusals(BY_HAND, run_key=HAND_MADE)
        return [one.source.deployment for one in refusals if one.reason == "done"]

    def generations() -> list[tuple[int, str, str]]:
        history = guard.history(BY_HAND, run_key=HAND_MADE)
        return [(one.generation, one.outcome, one.source.deployment) for one in history]

    assert run(blue) == "success"
    wait_until_confirmed(blue)
    assert run(green) == "skipped"
    assert told_done() == ["full"]

    green.api.clear(BY_HAND, HAND_MADE, "work")
    eventually(lambda: told_done() == ["full", "full"], timeout=PATIENCE, every=0.5)
    assert ended(green) == "skipped"
    assert generations() == [(1, "success", "mini")]

    blue.api.clear(BY_HAND, HAND_MADE, "work")
    eventually(lambda: generations() == [(2, "success", "mini"), (1, "success", "mini")], timeout=PATIENCE, every=0.5)
    assert ended(blue) == "success"
    assert told_done() == ["full", "full"]


def wait_until_confirmed(deployment: Deployment) -> None:
    """Until the ledger knows that Airflow has shown the success, which takes it a moment."""
    query = """
        SELECT confirmed_try FROM exclusive.scheduled_job_run
        WHERE job_name = %s AND run_key = %s AND outcome = 'success' AND confirmed_try IS NOT NULL
    """
    with psycopg.connect(deployment.stack.status_dsn, autocommit=True) as connection:
        eventually(lambda: connection.execute(query, [BY_HAND, HAND_MADE]).fetchone(), timeout=PATIENCE)
