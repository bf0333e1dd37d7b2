"""The trust window: how long a runner may believe that it holds the lease, by its own monotonic clock.

A renewal that was *sent* at time s and succeeded makes the stores believe in the runner until at least s + ttl. The
runner must have stopped by then, so it stops believing a margin earlier, and starts to stop a grace before that:

    s            s+ttl/3           s+0.7 ttl          s+0.9 ttl   s+ttl
    |--- trust ----|--- retrying -----|--- stopping -----|- margin -|  others may take over
      next renewal due           SIGTERM             SIGKILL

A fixed lease, that nobody renews, needs no time for retrying: it is trusted as long, and its grace is at most 6 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_RENEW_AT = 1 / 3
_RETRY_EVERY = 1 / 15
_GRACE = 0.2
_FIXED_GRACE_AT_MOST = 6.0
_LAST_CALL = 0.8
_KILL_AT = 0.9


class Action(Enum):
    WAIT = "wait"
    RENEW = "renew"
    STOP = "stop"
    KILL = "kill"


@dataclass(frozen=True)
class TrustWindow:
    """Times are seconds on one monotonic clock; `confirmed` is when the last successful renewal was sent.

    `lost` is when a store said that the lease is no longer ours (None while it is): then there is nothing left to
    wait for, only the grace in which the work may stop by itself.
    """

    ttl: float
    confirmed: float
    renew: bool = True
    lost: float | None = None

    @property
    def grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        grace = _GRACE * self.ttl
        return grace if self.renew else min(grace, _FIXED_GRACE_AT_MOST)

    @property
    def retry_every(self) -> float:
        return _RETRY_EVERY * self.ttl

    @property
    def renew_at(self) -> float:
        return self.confirmed + _RENEW_AT * self.ttl

    @property
    def stop_at(self) -> float:
        window_end = self.confirmed + _KILL_AT * self.ttl - self.grace
        return window_end if self.lost is None else min(self.lost, window_end)

    @property
    def last_call(self) -> float:
        """Until then stopping may be put off, if nothing speaks against a renewal: it only comes late."""
        return self.stop_at if self.lost is not None or not self.renew else self.confirmed + _LAST_CALL * self.ttl

    @property
    def deadline(self) -> float:
        """From here on the lease must not be believed in; it is before the stores can give it to anybody else."""
        window_end = self.confirmed + _KILL_AT * self.ttl
        return window_end if self.lost is None else min(self.lost, window_end)

    @property
    def kill_at(self) -> float:
        window_end = self.confirmed + _KILL_AT * self.ttl
        return window_end if self.lost is None else min(self.lost + self.grace, window_end)

    def action(self, now: float, *, only_late: bool = False) -> Action:
        """What is due.

        only_late: no renewal has failed, they may come yet.
        """
        if now >= self.kill_at:
            return Action.KILL
        if now >= (self.last_call if only_late else self.stop_at):
            return Action.STOP
        if self.renew and now >= self.renew_at:
            return Action.RENEW
        return Action.WAIT

    def next_change(self, now: float) -> float:
        """Seconds until `action` can answer something else (0 while it is time to renew)."""
        moments = [self.renew_at] if self.renew else []
        moments += [self.stop_at, self.last_call, self.kill_at]
        return min((moment - now for moment in moments if moment > now), default=0.0)
