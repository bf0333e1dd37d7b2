"""Standing by without a worker: the look at the truth, again and again, until it is the waiter's turn.

    look: done, or who runs is ours no more to wait for  ->  say so
    look: somebody runs, and it is worth waiting         ->  wait, at most until the lease lapses
    look: nobody runs                                    ->  reserve the gate under the waiter's ticket; got it: go

Of all who wait for a job only the one that gets the reservation is woken, and the others see a lock in passing. When
the woken one asks, it trades the ticket for a lock of its own. One who never comes holds the job up until the
reservation lapses; a lock that an ended attempt has left holds nobody up. Nothing here decides anything for good:
whoever is woken asks again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from airflow_exclusive.core.admission import AlreadyDone, Busy
from airflow_exclusive.core.errors import StoreUnavailable
from airflow_exclusive.core.job import Request
from airflow_exclusive.core.patience import IN_PASSING, Patience
from airflow_exclusive.core.ports import AsyncLocks, AsyncStatuses
from airflow_exclusive.core.settings import ASKERS_LOCK, OnRedisDown

log = logging.getLogger(__name__)

Outcome = Literal["free", "done", "late"]

POLL_AT_MOST = 5.0
_POLL_AT_LEAST = 0.05


@dataclass(frozen=True)
class Woken:
    """Why the waiting is over: the job is free for this waiter, the tick is done, or patience is at its end."""

    outcome: Outcome
    why: str


@dataclass
class Standby:
    """`clock` is the node's monotonic one; it only ends patience."""

    statuses: AsyncStatuses
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]

    async def since(self, moment: float) -> float:
        """When it was `moment` by the database's clock, on the node's."""
        ago = max(0.0, await self.now() - moment)
        return self.clock() - ago  # by the reply's arrival: patience may end late, never early

    async def now(self) -> float:
        """By the database's clock; asked for until it answers."""
        while True:
            try:
                return await self.statuses.clock()
            except StoreUnavailable as error:
                log.warning("%s; trying again", error)
                await self.sleep(POLL_AT_MOST)

    async def turn(
        self, request: Request, patience: Patience, locks: AsyncLocks, on_redis_down: OnRedisDown = "fail"
    ) -> Woken:
        """Wait for the turn of `request`, whose owner is its ticket. Raises `StoreMisconfigured`."""
        until = patience.unheard_until(has_left=True)
        why = ""
        while True:
            pause = POLL_AT_MOST
            try:
                seen = await self._ask(request, patience, locks, on_redis_down)
                if isinstance(seen, Woken):
                    return seen
                until, pause, why = patience.until(seen, self.clock()), seen.retry_after, str(seen)
            except StoreUnavailable as error:
                if why != (why := str(error)):
                    log.warning("%s; trying again", why)
            left = until - self.clock()
            if left <= 0:
                return Woken("late", why)
            await self.sleep(min(max(pause, _POLL_AT_LEAST), POLL_AT_MOST, left))

    async def _ask(
        self, request: Request, patience: Patience, locks: AsyncLocks, on_redis_down: OnRedisDown
    ) -> Woken | Busy:
        seen = await self.statuses.look(request)
        if isinstance(seen, Busy):
            return seen
        if seen is not None:
            return Woken("done" if isinstance(seen, AlreadyDone) else "free", str(seen))
        reserved_for = min(patience.ttl, ASKERS_LOCK)
        try:
            lock = await locks.acquire(request.job_name, request.owner, reserved_for)
        except StoreUnavailable as error:
            if on_redis_down == "fail":
                raise
            return Woken("free", f"nobody runs {request.job_name}; {error}")
        if lock.mine:
            return Woken("free", f"{request.job_name} is reserved for {reserved_for:g} s")
        retry_after = lock.seconds_left
        if await self.statuses.left_behind(lock, max(patience.ttl, ASKERS_LOCK)):
            await locks.release(request.job_name, lock.owner)
            retry_after = 0.0
        return Busy(request.job_name, request.run_key, None, retry_after, IN_PASSING)

    async def seen(self, request: Request, *, free: bool, every: float) -> Woken:
        """Wait until the tick is done, or with `free` until nobody runs the job either. Takes nothing."""
        why = ""
        while True:
            try:
                seen = await self.statuses.look(request)
                if isinstance(seen, AlreadyDone):
                    return Woken("done", str(seen))
                if free and not isinstance(seen, Busy):
                    return Woken("free", f"nobody runs {request.job_name}")
            except StoreUnavailable as error:
                if why != (why := str(error)):
                    log.warning("%s; trying again", why)
            await self.sleep(every)
