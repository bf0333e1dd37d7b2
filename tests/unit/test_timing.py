"""The trust window: in which order things become due, and never too late."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_exclusive.core.timing import Action, TrustWindow

ORDER = [Action.WAIT, Action.RENEW, Action.STOP, Action.KILL]
TIMES = st.floats(0, 1e6)
TTLS = st.floats(1, 7 * 86400)


@st.composite
def windows(draw: st.DrawFn) -> TrustWindow:
    confirmed, ttl = draw(TIMES), draw(TTLS)
    # The loss is noticed at any time after the last confirmation, even long after the window has ended.
    lost = draw(st.none() | st.floats(0, 2).map(lambda part: confirmed + part * ttl))
    return TrustWindow(ttl, confirmed, draw(st.booleans()), lost)


@given(windows(), st.lists(st.floats(0, 3), min_size=2, max_size=20))
def test_actions_only_get_stronger_as_time_goes_on(window: TrustWindow, parts: list[float]) -> None:
    moments = [window.confirmed + part * window.ttl for part in sorted(parts)]
    ranks = [ORDER.index(window.action(moment)) for moment in moments]
    assert ranks == sorted(ranks)


@given(windows())
def test_everything_is_over_before_somebody_else_may_take_over(window: TrustWindow) -> None:
    assert window.deadline < window.confirmed + window.ttl
    assert window.kill_at < window.confirmed + window.ttl
    assert window.action(window.confirmed + window.ttl) is Action.KILL


@given(windows(), st.floats(0, 3))
def test_the_work_is_asked_to_stop_while_the_lease_is_still_believed_in(window: TrustWindow, part: float) -> None:
    now = window.confirmed + part * window.ttl
    if now >= window.deadline:
        assert window.action(now) in (Action.STOP, Action.KILL)


@given(TIMES, TTLS, st.floats(0, 0.6), st.floats(0, 3))
def test_nothing_is_believed_in_after_it_was_lost(confirmed: float, ttl: float, lost: float, later: float) -> None:
    moment = confirmed + lost * ttl
    window = TrustWindow(ttl, confirmed, lost=moment)
    assert window.deadline <= moment
    assert window.action(moment + later * ttl) in (Action.STOP, Action.KILL)


@given(TIMES, TTLS, st.floats(0, 0.6))
def test_a_loss_leaves_the_grace_to_stop_in_good_order(confirmed: float, ttl: float, lost: float) -> None:
    window = TrustWindow(ttl, confirmed, lost=confirmed + lost * ttl)
    assert window.kill_at - window.stop_at == pytest.approx(window.grace, abs=1e-3)
    assert window.grace == pytest.approx(0.2 * ttl)


@given(TIMES, TTLS)
def test_a_fixed_lease_is_used_until_the_grace_before_its_end(confirmed: float, ttl: float) -> None:
    window = TrustWindow(ttl, confirmed, renew=False)
    assert window.kill_at == window.deadline == TrustWindow(ttl, confirmed).deadline
    assert window.stop_at == pytest.approx(window.kill_at - window.grace, abs=1e-3)
    assert window.grace == pytest.approx(min(0.2 * ttl, 6))
    told = TrustWindow(ttl, confirmed, renew=False, lost=window.stop_at)
    assert told.kill_at == pytest.approx(window.kill_at, abs=1e-3)


@pytest.mark.parametrize(
    ("ttl", "second", "action"),
    [
        (30, 20.9, Action.WAIT),
        (30, 21, Action.STOP),
        (300, 263, Action.WAIT),
        (300, 264, Action.STOP),
        (300, 269, Action.STOP),
        (300, 270, Action.KILL),
    ],
)
def test_when_a_fixed_lease_ends(ttl: float, second: float, action: Action) -> None:
    assert TrustWindow(ttl, 0, renew=False).action(second) is action


@given(TIMES, TTLS)
def test_a_renewal_is_tried_several_times_before_anything_is_stopped(confirmed: float, ttl: float) -> None:
    window = TrustWindow(ttl, confirmed)
    assert window.renew_at + 5 * window.retry_every < window.stop_at


@given(TIMES, TTLS)
def test_stopping_that_is_put_off_still_leaves_time_to_stop(confirmed: float, ttl: float) -> None:
    window = TrustWindow(ttl, confirmed)
    assert window.stop_at < window.last_call < window.kill_at - 0.05 * ttl


@pytest.mark.parametrize(
    ("window", "second", "late", "failed"),
    [
        (TrustWindow(30, 0), 20.9, Action.RENEW, Action.RENEW),
        (TrustWindow(30, 0), 21, Action.RENEW, Action.STOP),
        (TrustWindow(30, 0), 23.9, Action.RENEW, Action.STOP),
        (TrustWindow(30, 0), 24, Action.STOP, Action.STOP),
        (TrustWindow(30, 0), 27, Action.KILL, Action.KILL),
        (TrustWindow(30, 0, lost=12), 11.9, Action.RENEW, Action.RENEW),
        (TrustWindow(30, 0, lost=12), 12, Action.STOP, Action.STOP),
        (TrustWindow(30, 0, renew=False), 20.9, Action.WAIT, Action.WAIT),
        (TrustWindow(30, 0, renew=False), 21, Action.STOP, Action.STOP),
    ],
)
def test_stopping_is_put_off_while_renewals_are_only_late(
    window: TrustWindow, second: float, late: Action, failed: Action
) -> None:
    assert window.action(second, only_late=True) is late
    assert window.action(second) is failed


@given(windows(), st.floats(0, 3), st.floats(0, 0.999), st.booleans())
def test_no_change_comes_before_the_next_change(
    window: TrustWindow, part: float, between: float, only_late: bool
) -> None:
    now = window.confirmed + part * window.ttl
    pause = window.next_change(now)
    assert pause >= 0
    then = now + between * pause
    assume(then < now + pause or pause == 0)  # of two neighbouring numbers, what lies between is rounded to one
    assert window.action(then, only_late=only_late) is window.action(now, only_late=only_late)


@given(windows(), st.floats(0, 3))
def test_sleeping_from_change_to_change_reaches_the_end(window: TrustWindow, part: float) -> None:
    now, seen = window.confirmed + part * window.ttl, 0
    while window.action(now) is not Action.KILL:
        pause = window.next_change(now)
        assert pause > 0
        now += pause
        seen += 1
        assert seen <= 8, "four changes, each of which rounding may put a moment off"


def test_a_fixed_lease_is_never_renewed() -> None:
    window = TrustWindow(30, 0, renew=False)
    assert {window.action(second / 10) for second in range(300)} == {Action.WAIT, Action.STOP, Action.KILL}


@pytest.mark.parametrize(
    ("second", "action"),
    [(9.9, Action.WAIT), (10, Action.RENEW), (20.9, Action.RENEW), (21, Action.STOP), (27, Action.KILL)],
)
def test_the_default_lease_of_thirty_seconds(second: float, action: Action) -> None:
    assert TrustWindow(30, 0).action(second) is action
