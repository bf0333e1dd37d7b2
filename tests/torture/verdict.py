"""What must hold of every history, however the nodes and servers were struck."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.torture.history import Event, History
from tests.torture.node import STEPS
from tests.torture.world import World

_ATTEMPTS = "SELECT * FROM exclusive.scheduled_job_run ORDER BY job_name, fencing_token"
_EFFECTS = "SELECT * FROM effect ORDER BY id"

_NO_MORE = "no more "
_NEVER = float("inf")
_KEEPER = {"keeper killed", "keeper frozen", "node killed", "node frozen"}
"""What a keeper that would end its job, or that one's forks, may be kept from it by."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Books:
    """What the stores say in the end."""

    attempts: list[Row]
    effects: dict[str, list[Row]]
    """By job, in the order in which they were written."""

    @classmethod
    def of(cls, world: World) -> Books:
        effects: dict[str, list[Row]] = {job: [] for job in world.jobs}
        for dsn in (world.status_dsn, world.effects_dsn):
            for row in _rows(dsn, _EFFECTS):
                effects[row["job_name"]].append(row)
        return cls(_rows(world.status_dsn, _ATTEMPTS), effects)


def violations(books: Books, history: History) -> Iterator[str]:
    yield from _bugs(history)
    yield from _ticks(books)
    yield from _effects(books)
    yield from _tokens(books)
    yield from _answers(books, history)
    yield from _overlaps(books, history)


def _bugs(history: History) -> Iterator[str]:
    for bug in history.events("bug"):
        yield f"{bug.job} {bug.tick}: {bug.why}"


def _ticks(books: Books) -> Iterator[str]:
    """Each up to the last one was done, once per generation."""
    done: dict[tuple[str, int], list[int]] = defaultdict(list)
    for row in books.attempts:
        if row["outcome"] == "success":
            done[row["job_name"], int(row["run_key"])].append(row["generation"])
    for job in books.effects:
        last = max((tick for name, tick in done if name == job), default=-1)
        for tick in range(last + 1):
            generations = done[job, tick]
            if sorted(generations) != list(range(1, len(generations) + 1)) or not generations:
                yield f"{job} {tick}: done in the generations {sorted(generations)}"


def _effects(books: Books) -> Iterator[str]:
    """Those of what is done were written once, and no other more than once."""
    for job, effects in books.effects.items():
        written: dict[tuple[str, int, str], int] = defaultdict(int)
        for row in effects:
            written[row["run_key"], row["generation"], row["step"]] += 1
        for step, times in written.items():
            if times > 1:
                yield f"{job} {step}: {times} times written"
        for row in books.attempts:
            if row["job_name"] == job and row["outcome"] == "success":
                missing = [step for step in STEPS if not written[row["run_key"], row["generation"], step]]
                if missing:
                    yield f"{job} {row['run_key']}, generation {row['generation']}: done without {missing}"


def _tokens(books: Books) -> Iterator[str]:
    """What an attempt writes comes before anything of the next one."""
    for job, effects in books.effects.items():
        highest = 0
        for row in effects:
            if row["token"] < highest:
                yield f"{job}: token {row['token']} wrote after {highest}"
            highest = max(highest, row["token"])
    began: dict[str, Any] = {}
    for row in books.attempts:
        job = row["job_name"]
        if job in began and row["started_at"] < began[job]:
            yield f"{job}: token {row['fencing_token']} began before the one before it"
        began[job] = row["started_at"]


def _answers(books: Books, history: History) -> Iterator[str]:
    """Who was told that it has done the tick has, and who was told that it has not hasn't."""
    outcomes = {row["owner"]: row["outcome"] for row in books.attempts}
    for told in history.events("finished"):
        if outcomes.get(told.owner) != "success":
            yield f"{told.owner} was told that it has succeeded; the ledger says {outcomes.get(told.owner)}"
    for told in history.events("refused"):
        if outcomes.get(told.owner) == "success":
            yield f"{told.owner} was told that its result is refused; the ledger says success"
    for row in books.attempts:
        if row["outcome"] == "running":
            yield f"{row['job_name']} {row['run_key']}: {row['owner']} runs for ever"


def _overlaps(books: Books, history: History) -> Iterator[str]:
    """Of what is stopped before its lease can lapse no two work at a time, nor do their forks.

    Unless nothing could stop it, since job and keeper were struck both: frozen, it does nothing, and learns at its
    next step that it is too late. Or unless a person has said that the runner is lost, and it wasn't.
    """
    released = {row["owner"] for row in books.attempts if row["outcome"] == "released"}
    helped = {event.owner: event.at for event in history.events("helped")}
    at_work: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for began, over, met in _attempts(history):
        if began.policy != "stop" or began.owner in released:
            continue
        if "node frozen" in met or ("job frozen" in met and met & _KEEPER):
            continue
        until = over if met & _KEEPER else max(over, helped.get(began.owner, over))
        at_work[began.job].append((began.at, until, began.owner))
    for job, spans in at_work.items():
        busy_until, by = 0.0, ""
        for began_at, over, owner in sorted(spans):
            if began_at < busy_until:
                yield f"{job}: {owner} began {busy_until - began_at:.3f} s before {by} had stopped"
            if over > busy_until:
                busy_until, by = over, owner


def orphans(history: History) -> set[int]:
    """Forks of jobs whose keeper was struck: where the job dies as well, nobody is left to end them."""
    struck = {began.owner for began, _, met in _attempts(history) if met & _KEEPER}
    return {event.pid for event in history.events("helped") if event.owner in struck}


def _attempts(history: History) -> Iterator[tuple[Event, float, set[str]]]:
    """Each with when its job had stopped or died, and what it was struck by."""
    ends = {event.owner: event.at for event in history.events("stopped")}
    deaths = {event.pid: event.at for event in history.events("died")}
    strikes = list(_strikes(history))
    for began in history.events("begun"):
        over = min(ends.get(began.owner, _NEVER), deaths.get(began.pid, _NEVER))
        met = {what for pid, what, at, until in strikes if pid == began.pid and at <= over and until >= began.at - 1}
        yield began, over, met


def _strikes(history: History) -> Iterator[tuple[int, str, float, float]]:
    """Against whom, what, when and how long."""
    frozen: dict[tuple[int, str], float] = {}
    for event in history.events("struck"):
        if event.what.startswith(_NO_MORE):
            what = event.what.removeprefix(_NO_MORE)
            yield event.pid, what, frozen.pop((event.pid, what)), event.at
        elif event.what.endswith("frozen"):
            frozen[event.pid, event.what] = event.at
        else:
            yield event.pid, event.what, event.at, event.at
    for (pid, what), at in frozen.items():
        yield pid, what, at, _NEVER


def _rows(dsn: str, query: str) -> list[Row]:
    with psycopg.connect(dsn, row_factory=dict_row) as conn:
        return conn.execute(query).fetchall()
