"""`python -m tests.torture`: exit status 1 where something broke; everything is in `.torture/` then."""

from __future__ import annotations

import argparse
import logging
import secrets
import shutil
import sys
import time
from collections import Counter
from contextlib import suppress

from deploy.embedded.release import PROJECT
from tests.support.waiting import eventually
from tests.torture.nemesis import Nemesis
from tests.torture.verdict import Books, orphans, violations
from tests.torture.world import World

_FOLDER = PROJECT / ".torture"
_RECOVERS_WITHIN = 180.0
_MORE = 2
"""Ticks of each job that must be done once nobody is struck any more."""


def main() -> int:
    asked = _asked()
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir()
    logging.basicConfig(filename=_FOLDER / "nemesis.log")
    world = World(_FOLDER, asked.seed, asked.nodes, asked.jobs, asked.ttl)
    print(f"seed {asked.seed}: {asked.nodes} nodes, {asked.jobs} jobs, {asked.minutes:g} minutes", flush=True)
    broken = []
    with world.alive():
        Nemesis(world).torment(60 * asked.minutes)
        broken += _recover(world) + _leave(world)
        books = Books.of(world)
        broken += violations(books, world.history)
    _print_summary(world, books)
    for violation in broken:
        print(f"BROKEN {violation}")
    print("ok" if not broken else f"{len(broken)} broken; see {_FOLDER.name}/")
    return 1 if broken else 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Strike nodes and servers at random.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--ttl", type=float, default=6.0, help="seconds")
    parser.add_argument(
        "--seed", default=secrets.token_hex(4), help="what is struck; when it hits is up to the machine"
    )
    return parser.parse_args()


def _recover(world: World) -> list[str]:
    """Left alone, the nodes must get on with every job."""
    world.history.note("nobody is struck any more")
    before = world.done()
    with suppress(AssertionError):
        eventually(
            lambda: all(world.done()[job] >= done + _MORE for job, done in before.items()), _RECOVERS_WITHIN, every=0.5
        )
    after = world.done()
    return [f"{job} stays at tick {after[job]}" for job, done in before.items() if after[job] < done + _MORE]


def _leave(world: World) -> list[str]:
    """Killed, they must leave nothing behind."""
    world.end_jobs()
    until = time.monotonic() + 5 * world.ttl
    while (left := _left(world)) and time.monotonic() < until:
        time.sleep(0.2)
    return left


def _left(world: World) -> list[str]:
    with world.guard() as guard:
        running = [f"{job.job_name} is still claimed" for job in guard.status() if job.status == "running"]
        locked = [f"{job} is still locked by {owner}" for job in world.jobs if (owner := guard.locks.owner(job))]
    excused = orphans(world.history)
    there = [f"a process is still there: {process}" for process in world.left() if process.pid not in excused]
    return there + running + locked


def _print_summary(world: World, books: Books) -> None:
    outcomes = Counter(row["outcome"] for row in books.attempts)
    strikes = Counter(event.what for event in world.history.events("strike"))
    print("attempts: " + ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())))
    print("strikes:  " + ", ".join(f"{number} x {what}" for what, number in sorted(strikes.items())))


sys.exit(main())
