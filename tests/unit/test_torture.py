"""What the verdict says of books and histories that are made up: nothing of good ones, and each fault by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.torture.history import History
from tests.torture.node import STEPS
from tests.torture.verdict import Books, Row, orphans, violations

JOB = "job 0"
START = datetime(2013, 1, 2, tzinfo=timezone.utc)
Told = list[tuple[float, str, dict[str, Any]]]


def attempt(token: int, tick: int, outcome: str = "success", generation: int = 1) -> Row:
    return {
        "job_name": JOB,
        "run_key": str(tick),
        "generation": generation,
        "fencing_token": token,
        "owner": f"owner {token}",
        "outcome": outcome,
        "started_at": START + timedelta(seconds=token),
    }


def effects(token: int, tick: int, generation: int = 1) -> list[Row]:
    asked = {"job_name": JOB, "run_key": str(tick), "generation": generation, "token": token}
    return [{**asked, "step": step} for step in STEPS]


def good_books() -> Books:
    """Two ticks; of the first an attempt that was taken over, and a generation more."""
    attempts = [attempt(1, 0, "taken_over"), attempt(2, 0), attempt(3, 1), attempt(4, 0, generation=2)]
    return Books(attempts, {JOB: [*effects(2, 0), *effects(3, 1), *effects(4, 0, 2)]})


def good_history() -> Told:
    told: Told = []
    for at in (1.0, 2.0, 3.0, 4.0):
        owner = {"pid": int(at), "owner": f"owner {at:.0f}"}
        told.append((at, "begun", {**owner, "job": JOB, "tick": "0", "policy": "stop"}))
        told.append((at + 0.5, "helped", owner))
        if at > 1:
            told.append((at + 0.8, "stopped", owner))
            told.append((at + 0.9, "finished", owner))
    return [*told, (1.9, "died", {"pid": 1})]


@pytest.fixture
def judge(tmp_path: Path) -> Callable[[Books, Told], list[str]]:
    def told(books: Books, history: Told) -> list[str]:
        file = tmp_path / "history.jsonl"
        file.write_text("".join(json.dumps(event) + "\n" for event in history))
        return list(violations(books, History(file)))

    return told


Judge = Callable[[Books, Told], list[str]]


def test_nothing_is_said_of_a_good_history(judge: Judge) -> None:
    assert judge(good_books(), good_history()) == []


FORGED: dict[str, tuple[Callable[[Books], object], str]] = {
    "done twice": (lambda books: books.attempts.append(attempt(5, 1)), "job 0 1: done in the generations [1, 1]"),
    "never done": (
        lambda books: books.attempts.__setitem__(2, attempt(3, 2)),
        "job 0 1: done in the generations []",
    ),
    "an effect twice": (
        lambda books: books.effects[JOB].append(effects(4, 1)[0]),
        "job 0 ('1', 1, 'first'): 2 times written",
    ),
    "an effect missing": (
        lambda books: books.effects[JOB].pop(0),
        "job 0 0, generation 1: done without ['first']",
    ),
    "a stale write": (
        lambda books: books.effects[JOB].append({**effects(1, 7)[0]}),
        "job 0: token 1 wrote after 4",
    ),
    "a claim back in time": (
        lambda books: books.attempts[3].update(started_at=START),
        "job 0: token 4 began before the one before it",
    ),
    "a runner for ever": (
        lambda books: books.attempts.append(attempt(5, 2, "running")),
        "job 0 2: owner 5 runs for ever",
    ),
    "a success that was none": (
        lambda books: books.attempts[3].update(outcome="failed"),
        "owner 4 was told that it has succeeded; the ledger says failed",
    ),
}


@pytest.mark.parametrize("fault", FORGED)
def test_forged_books_are_noticed(judge: Judge, fault: str) -> None:
    books = good_books()
    forge, expected = FORGED[fault]
    forge(books)
    assert expected in judge(books, good_history())


TOLD: dict[str, tuple[Told, str]] = {
    "a bug": ([(5.0, "bug", {"job": JOB, "tick": "1", "why": "KeyError"})], "job 0 1: KeyError"),
    "a refusal that was none": (
        [(5.0, "refused", {"owner": "owner 2"})],
        "owner 2 was told that its result is refused; the ledger says success",
    ),
    "two at work": (
        [(3.5, "begun", {"pid": 9, "owner": "owner 9", "job": JOB, "tick": "1", "policy": "stop"})],
        "job 0: owner 9 began 0.300 s before owner 3 had stopped",
    ),
    "a fork at work beside the next attempt": (
        [(2.1, "helped", {"pid": 9, "owner": "owner 1"})],
        "job 0: owner 2 began 0.100 s before owner 1 had stopped",
    ),
}


@pytest.mark.parametrize("fault", TOLD)
def test_what_nodes_tell_is_noticed(judge: Judge, fault: str) -> None:
    more, expected = TOLD[fault]
    assert expected in judge(good_books(), [*good_history(), *more])


EXCUSES: dict[str, tuple[Told, Callable[[Books], object]]] = {
    "the node was frozen": (
        [
            (1.2, "struck", {"pid": 1, "what": "node frozen"}),
            (2.4, "struck", {"pid": 1, "what": "no more node frozen"}),
        ],
        lambda _: None,
    ),
    "the job was frozen, and its keeper killed": (
        [(1.1, "struck", {"pid": 1, "what": "keeper killed"}), (1.2, "struck", {"pid": 1, "what": "job frozen"})],
        lambda _: None,
    ),
    "it was released by hand": ([], lambda books: books.attempts[0].update(outcome="released")),
}


def late() -> Told:
    """The first attempt works on for a while beside the second."""
    return [*good_history()[:-1], (2.5, "died", {"pid": 1})]


def test_who_works_on_beside_the_next_one_is_noticed(judge: Judge) -> None:
    assert judge(good_books(), late()) == ["job 0: owner 2 began 0.500 s before owner 1 had stopped"]


@pytest.mark.parametrize("excuse", EXCUSES)
def test_unless_nothing_could_have_stopped_it(judge: Judge, excuse: str) -> None:
    more, forge = EXCUSES[excuse]
    books = good_books()
    forge(books)
    assert judge(books, [*late(), *more]) == []


@pytest.mark.parametrize(
    "strike",
    [
        (1.2, "struck", {"pid": 1, "what": "job frozen"}),
        (1.2, "struck", {"pid": 1, "what": "keeper killed"}),
        (1.2, "struck", {"pid": 2, "what": "node killed"}),
    ],
)
def test_one_strike_alone_is_no_excuse(judge: Judge, strike: tuple[float, str, dict[str, Any]]) -> None:
    assert judge(good_books(), [*late(), strike]) == ["job 0: owner 2 began 0.500 s before owner 1 had stopped"]


def test_forks_are_excused_whose_keeper_was_struck_as_well(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    told = [*good_history(), (1.2, "struck", {"pid": 1, "what": "keeper killed"})]
    told += [(1.3, "helped", {"pid": 77, "owner": "owner 1"}), (2.3, "helped", {"pid": 88, "owner": "owner 2"})]
    history.file.write_text("".join(json.dumps(event) + "\n" for event in told))
    assert 77 in orphans(history)
    assert 88 not in orphans(history)
