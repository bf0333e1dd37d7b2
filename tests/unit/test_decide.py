"""How the ledger's answer is read."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from airflow_exclusive.core.admission import AlreadyDone, Attempt, Busy, Claim, decide
from airflow_exclusive.core.job import Request, Source
from tests.support.fakes import NOON, TASK, TICK, attempt

ME = Request("backup_daily", TICK, owner="me", node_id="node-a", source=TASK)
STRANGER = attempt()
MINE = attempt(owner="me")
DONE = attempt(owner="earlier", outcome="success", finished_at=NOON)


def columns(prefix: str, given: Attempt | None) -> dict[str, Any]:
    if given is None:
        return {prefix + "owner": None}
    plain = asdict(given)
    source = plain.pop("source")
    source.pop("cleared_tries")
    return {prefix + name: value for name, value in {**plain, **source}.items()}


def row(
    *,
    holder: Attempt | None = None,
    alive: bool = False,
    done: Attempt | None = None,
    again: bool = False,
    previous: Attempt | None = None,
    retry_after: float | None = None,
) -> dict[str, Any]:
    plain = {"again": again, "holder_alive": alive, "retry_after": retry_after, "done_result": None}
    return {**plain, **columns("holder_", holder), **columns("done_", done), **columns("previous_", previous)}


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ({}, None),
        ({"holder": MINE, "alive": True, "retry_after": 30.0}, Claim(MINE)),
        ({"holder": MINE, "alive": False, "retry_after": -1.0}, Claim(MINE)),
        ({"holder": MINE, "done": DONE, "alive": True}, Claim(MINE)),
        ({"holder": MINE, "alive": True, "previous": STRANGER}, Claim(MINE, took_over=STRANGER)),
        ({"holder": replace(MINE, outcome="taken_over")}, None),
        ({"holder": replace(MINE, outcome="success"), "done": DONE}, AlreadyDone(DONE)),
        ({"holder": STRANGER, "alive": True, "retry_after": 12.5}, Busy("backup_daily", TICK, STRANGER, 12.5)),
        ({"holder": STRANGER, "alive": False, "retry_after": -3.0}, None),
        ({"holder": STRANGER, "alive": True, "done": DONE, "retry_after": 9.0}, AlreadyDone(DONE)),
        (
            {"holder": STRANGER, "alive": True, "done": DONE, "again": True, "retry_after": 9.0},
            Busy("backup_daily", TICK, STRANGER, 9.0),
        ),
        ({"done": DONE}, AlreadyDone(DONE)),
        ({"done": DONE, "again": True}, None),
        (
            {"holder": replace(STRANGER, outcome="success"), "retry_after": 4.0},
            Busy("backup_daily", TICK, None, 4.0, "held back by hold_at_least"),
        ),
        ({"retry_after": 0.0}, None),
    ],
)
def test_the_first_rule_that_matches_decides(said: dict[str, Any], verdict: object) -> None:
    assert decide(ME, row(**said)) == verdict


@pytest.mark.parametrize(
    ("by", "own"),
    [
        (replace(TASK, try_number=2), True),
        (replace(TASK, run_id="scheduled__2"), False),
        (replace(TASK, map_index=3), False),
        (replace(TASK, deployment="mini"), False),
        (Source(), False),
    ],
)
def test_who_did_it_tells_an_earlier_try_from_a_stranger(by: Source, own: bool) -> None:
    verdict = decide(ME, row(done=replace(DONE, source=by)))
    assert isinstance(verdict, AlreadyDone)
    assert verdict.by_own_attempt is own


def test_two_commands_are_never_the_same_task_instance() -> None:
    assert not Source().same_task_instance(Source())


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (Busy("j", "k", STRANGER, 3), ["busy: j runs tick", "node-b", "since 2013-01-02T12:00:00", "token 1"]),
        (Busy("j", "k", None, 3.25, "locked by x"), ["busy: j is locked by x for another 3.2 s"]),
        (AlreadyDone(DONE), ["already done: backup_daily", "by node-b", "at 2013-01-02T12:00:00", "token 1"]),
        (AlreadyDone(DONE, by_own_attempt=True), ["by an earlier attempt of this task instance"]),
    ],
)
def test_an_answer_says_who_when_and_for_how_long(answer: object, parts: list[str]) -> None:
    for part in parts:
        assert part in str(answer)
