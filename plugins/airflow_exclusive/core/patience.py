"""Until when it is worth standing by, for whom."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from airflow_exclusive.core.admission import AlreadyDone, Busy
from airflow_exclusive.core.job import Source

IN_PASSING = "locked by somebody whom Postgres doesn't know as its runner"
"""Somebody is asking just now, or has just finished, or died in between. That is no reason to skip a tick, since only
the truth says who runs: it passes in milliseconds, or with the ttl of the one who died."""

_CONFIRMED_WITHIN = 10.0
"""Airflow shows a success a moment before its task notes that in the ledger: a quick clear must not come in between."""

_A_MOMENT = 2.0
"""Seconds: leaving and coming back takes longer than such a wait."""


@dataclass(frozen=True)
class Elsewhere:
    """An asker that doesn't wait where it asks: it is sent away with what there is to wait for, and asks again.

    waited: seconds since it asked for the first time; None: it does so now.
    ticket: what the lock was reserved under for this asker, empty where it wasn't.
    """

    waited: float | None = None
    ticket: str = ""


@dataclass
class Patience:
    """One asker's. All times are seconds, on the clock by which it `began` to ask.

    wait: how long to stand by while a stranger runs; ttl: its own, and for how long locks in passing are waited for,
    from when the first of them was met: what was waited for before says nothing about them.
    An earlier attempt of the same task instance is no stranger: it is waited for without end.
    """

    source: Source
    began: float
    wait: float
    ttl: float
    _passing_since: float | None = field(default=None, init=False)

    def until(self, busy: Busy, now: float) -> float:
        """Until when to stand by, after this answer; asked about each in its turn."""
        if busy.reason != IN_PASSING:
            self._passing_since = None
            return math.inf if self._own(busy) else self.began + self.wait
        if self._passing_since is None:
            self._passing_since = now
        return max(self.began + self.wait, self._passing_since + self.ttl)

    def unheard_until(self, *, has_left: bool) -> float:
        """Until when to ask stores that don't answer, while nobody has said what is in the way.

        has_left: the asker was sent elsewhere before. Without patience for strangers it was for an attempt of its own.
        """
        return math.inf if has_left and not self.wait else self.began + self.wait

    def leaves(self, busy: Busy, asked: float, now: float) -> bool:
        """Whether who isn't to wait where it asks, and came there at `asked`, has to go."""
        if busy.reason == IN_PASSING:
            # Who comes back doesn't know any more since when it has met these: it could come back for ever.
            return asked + _A_MOMENT < now < self.began + max(self.wait, self.ttl)
        return now + busy.retry_after > asked + _A_MOMENT

    def awaits_confirmation(self, done: AlreadyDone, now: float) -> bool:
        """Whether a person cleared that very success, and only the note that Airflow had shown it is missing yet."""
        cleared = 0 < done.run.source.try_number <= self.source.cleared_tries
        return done.by_own_attempt and cleared and now < self.began + _CONFIRMED_WITHIN

    def reason(self, busy: Busy) -> str:
        return " for this task instance's own attempt" if self._own(busy) else ""

    def _own(self, busy: Busy) -> bool:
        return busy.holder is not None and self.source.same_task_instance(busy.holder.source)
