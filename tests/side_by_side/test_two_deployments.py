"""Two deployments schedule one DAG folder: each tick runs once between them, whoever dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from airflow_exclusive.core.settings import LeaseSettings
from tests.side_by_side.conftest import DONE, PATIENCE, Deployment, Ledger, text
from tests.support.waiting import eventually

_AIRFLOWS_OWN = 30.0
"""Seconds, more than Airflow takes to start a task that it was told to start."""
WITHIN = 1.5 * LeaseSettings().seconds + _AIRFLOWS_OWN
_PER_TICK = 15.0
"""Seconds: far more than any tick needs in any deployment."""


@pytest.mark.timeout(0)
def test_each_tick_runs_once_in_one_of_them(
    deployments: tuple[Deployment, Deployment], ledger: Ledger, ticks: int, say: Callable[[str], None]
) -> None:
    full, second = deployments
    share = max(2, ticks // 10)

    def progress() -> Counter[str]:
        return Counter(deployment for _, _, deployment in ledger.lines())

    def wait_for_lines(count: int) -> None:
        eventually(lambda: progress().total() >= count, timeout=PATIENCE + count * _PER_TICK, every=0.5)
        say(f"{progress().total()} ticks of about {ticks} done: {dict(progress())}")

    def wait_until_through(one: Deployment) -> None:
        eventually(
            lambda: len(states := one.states()) == ticks and set(states.values()) <= set(DONE),
            timeout=PATIENCE + ticks * _PER_TICK,
            every=1,
        )
        say(f"{one.name}: through")

    def lose(dying: Deployment, survivor: Deployment) -> None:
        """Kill all of a deployment in the middle of a tick while the other one stands by."""
        survivor.pause()  # whichever is quicker: the other one gets the next tick
        dying.hold()
        dying.begin()
        ledger.wait_for_runner(dying)
        survivor.begin()
        ledger.wait_for_waiter(survivor)
        survivor.run_something_else()
        killed_at = ledger.now()
        dying.kill()
        say(f"{dying.name}: killed in the middle of a tick")
        before = ledger.attempts()[-1]
        assert (before["outcome"], before["deployment"]) == ("running", dying.name)
        eventually(lambda: ledger.attempts()[-1]["deployment"] == survivor.name, timeout=PATIENCE, every=0.2)
        after = ledger.attempts()[-1]
        took = (after["started_at"] - killed_at).total_seconds()
        say(f"{survivor.name}: took over after {took:.1f} s")
        assert took <= WITHIN
        dying.let_go()

    for one in deployments:
        one.begin()
    wait_for_lines(share)

    lose(full, survivor=second)
    wait_for_lines(progress().total() + share)

    second.pause()  # or it would be through all that is left while the other one starts
    full.start_again_paused()
    lose(second, survivor=full)
    wait_until_through(full)  # by itself
    second.start_again()
    wait_until_through(second)
    _check(full, second, ledger, ticks)
    say(f"each tick of {progress().total()} ran once: {dict(progress())}")


def _check(full: Deployment, second: Deployment, ledger: Ledger, ticks: int) -> None:
    attempts, lines = ledger.attempts(), ledger.lines()
    successes = [one for one in attempts if one["outcome"] == "success"]
    everything = set(full.states()) | set(second.states())
    # A cron expression is due once more at the end of the last interval in Airflow 2, at the start date in Airflow 3.
    assert len(everything) == ticks + (full.stack.profile.release is not second.stack.profile.release)
    assert sorted(one["run_key"] for one in successes) == sorted(everything)
    assert [run_key for run_key, _, _ in lines] == sorted(everything)
    assert {(one["run_key"], one["fencing_token"], one["deployment"]) for one in successes} == set(lines)
    assert Counter(one["outcome"] for one in attempts) == {"success": len(everything), "taken_over": 2}
    assert ledger.begun() == sorted((one["run_key"], one["fencing_token"], one["deployment"]) for one in attempts)

    by_key = {one["run_key"]: one for one in successes}
    for deployment in (full, second):
        for task in deployment.tasks():
            run = by_key[task["run_key"]]
            assert task["state"] == ("success" if run["deployment"] == deployment.name else "skipped"), task
            assert run["node_id"] in text(task["told"]) or task["state"] == "success", task
