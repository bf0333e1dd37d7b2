"""What the holder of a lease may do, and how it ends."""

from __future__ import annotations

import contextvars
import logging
import os
import signal
import threading
from typing import Any

import pytest

from airflow_exclusive.core import lease as lease_module
from airflow_exclusive.core.admission import Admitted
from airflow_exclusive.core.errors import InvalidSetting, LeaseLost, StoreUnavailable
from airflow_exclusive.core.lease import Lease, current_lease
from airflow_exclusive.core.settings import LeaseSettings
from tests.support.fakes import TICK, FakeKeeper, World, world


def leased(settings: LeaseSettings | None = None) -> tuple[World, Lease]:
    made = world()
    admission = made.guard.admit("backup_daily", run_key=TICK, settings=settings)
    assert isinstance(admission, Admitted)
    return made, admission.lease


def end(lease: Lease, error: Exception | None) -> None:
    """As by a block that ends, or that is left by an exception."""
    with lease:
        if error is not None:
            raise error


def test_a_block_that_ends_is_a_success() -> None:
    made, lease = leased()
    with lease:
        pass
    assert made.statuses.finished == [("success", None, 0.0)]


@pytest.mark.parametrize(
    "error", [ValueError("no rows"), KeyboardInterrupt("no rows"), SystemExit("no rows")], ids=repr
)
def test_a_block_left_by_an_exception_has_failed(error: BaseException) -> None:
    made, lease = leased()
    with pytest.raises(type(error), match="no rows"), lease:
        raise error
    assert made.statuses.finished == [("failed", f"{type(error).__name__}: no rows", 0.0)]


def test_a_failure_that_cannot_be_recorded_does_not_hide_the_jobs_own_error(caplog: pytest.LogCaptureFixture) -> None:
    made, lease = leased()
    made.statuses.recorded = StoreUnavailable("nobody answers")
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="no rows"), lease:
        raise ValueError("no rows")
    assert "could not record the failure of backup_daily" in caplog.text


def test_an_outcome_that_there_is_not_is_refused_while_the_lease_is_held() -> None:
    made, lease = leased()
    with pytest.raises(InvalidSetting, match="outcome='done': must be 'success' or 'failed'"):
        lease.finish("done")
    assert "keeper stops" not in made.calls.names
    lease.finish()


def test_what_the_block_starts_is_told_of_the_lease_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCLUSIVE_TOKEN", "of the job around")
    monkeypatch.delenv("EXCLUSIVE_OWNER", raising=False)
    _, lease = leased()
    with lease:
        assert {name: os.environ[name] for name in lease.environment} == lease.environment
    assert os.environ["EXCLUSIVE_TOKEN"] == "of the job around"
    assert "EXCLUSIVE_OWNER" not in os.environ


def told() -> list[str]:
    """Under whose leases a child would be started."""
    return os.environ.get("EXCLUSIVE_OWNER", "").split()


def test_what_is_started_within_an_inner_lease_writes_under_that_and_belongs_to_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXCLUSIVE_OWNER", "around")
    (_, outer), (_, inner) = leased(), leased()
    with outer:
        with inner:
            assert os.environ["EXCLUSIVE_TOKEN"] == str(inner.token)
            assert told() == ["around", outer.owner, inner.owner]
        assert told() == ["around", outer.owner]
    assert told() == ["around"]


def test_where_leases_overlap_in_threads_nobody_is_told_to_write_under_a_wrong_one() -> None:
    (_, one), (_, other) = leased(), leased()
    entered, leave = threading.Event(), threading.Event()

    def hold_the_other() -> None:
        with other:
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold_the_other)
    with one:
        thread.start()
        assert entered.wait(10)
        assert [name for name in one.environment if name in os.environ] == ["EXCLUSIVE_OWNER"]
        assert told() == [one.owner, other.owner]
        leave.set()
        thread.join()
        assert told() == [one.owner]
    assert told() == []


def test_whichever_of_overlapping_leases_ends_first_leaves_nothing_behind() -> None:
    (_, one), (_, other) = leased(), leased()
    in_another_thread = contextvars.Context()
    one.__enter__()
    in_another_thread.run(other.__enter__)
    one.__exit__(None, None, None)
    assert (told(), os.environ["EXCLUSIVE_TOKEN"]) == ([other.owner], str(other.token))
    in_another_thread.run(other.__exit__, None, None, None)
    assert not set(one.environment) & set(os.environ)


def test_where_leases_overlap_a_child_finds_the_ledger_that_it_was_configured_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A child that guards its own job would ask another one, and run the tick again."""
    monkeypatch.setenv("EXCLUSIVE_SCHEMA", "configured")
    (_, one), (_, other) = leased(), leased()
    with one:
        contextvars.Context().run(other.__enter__)
        assert os.environ["EXCLUSIVE_SCHEMA"] == "configured"
        contextvars.Context().run(other.__exit__, None, None, None)


def test_a_block_left_in_another_context_than_entered_is_ended_all_the_same() -> None:
    """As by `asyncio.to_thread`, or a dependency of a web framework."""
    made, lease = leased()
    contextvars.copy_context().run(lease.__enter__)
    contextvars.copy_context().run(lease.__exit__, None, None, None)
    assert made.statuses.finished == [("success", None, 0.0)]
    assert told() == []


def test_who_is_told_to_end_before_signals_are_held_back_ends_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be renewed for as long as the process lives."""
    made, lease = leased()
    held_back = lease_module.undisturbed

    def interrupted() -> None:
        monkeypatch.setattr(lease_module, "undisturbed", held_back)
        raise KeyboardInterrupt

    monkeypatch.setattr(lease_module, "undisturbed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        end(lease, None)
    assert made.statuses.finished == [("failed", "KeyboardInterrupt: ", 0.0)]


def test_a_keeper_that_cannot_be_stopped_does_not_keep_the_end_from_being_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, lease = leased()

    def fail(_: object) -> None:
        raise OSError("Bad file descriptor")

    monkeypatch.setattr(FakeKeeper, "stop", fail)
    with pytest.raises(OSError, match="Bad file descriptor"):
        end(lease, None)
    assert made.statuses.finished == [("success", None, 0.0)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("failed", [False, True], ids=["success", "failed"])
def test_a_signal_waits_until_the_attempt_is_closed(
    number: signal.Signals, failed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted there, it would stay open: the keeper that closes it for a dead job has been told to stop."""
    made, lease = leased()
    monkeypatch.setattr(FakeKeeper, "stop", lambda _: signal.raise_signal(number))

    def be_told(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(number, be_told)
    try:
        with pytest.raises(InterruptedError):
            end(lease, ValueError("no rows") if failed else None)
    finally:
        put_back = signal.signal(number, before)
    assert put_back is be_told
    assert [outcome for outcome, _, _ in made.statuses.finished] == ["failed" if failed else "success"]


def test_in_another_thread_an_attempt_is_closed_as_well() -> None:
    made, lease = leased()
    thread = threading.Thread(target=lease.finish)
    thread.start()
    thread.join()
    assert made.statuses.finished == [("success", None, 0.0)]


def test_a_success_that_cannot_be_recorded_is_an_error() -> None:
    made, lease = leased()
    made.statuses.recorded = StoreUnavailable("nobody answers")
    with pytest.raises(StoreUnavailable), lease:
        pass


def test_a_lease_finished_inside_its_block_is_not_finished_again() -> None:
    made, lease = leased()
    with lease:
        lease.finish("failed", "half done")
    assert made.statuses.finished == [("failed", "half done", 0.0)]


def test_a_result_goes_with_the_success() -> None:
    made, lease = leased()
    with lease:
        lease.finish(result="what it returned")
    assert made.statuses.finished == [("success", None, 0.0)]
    assert made.statuses.results == ["what it returned"]


def test_a_lease_is_finished_once() -> None:
    made, lease = leased()
    lease.finish()
    with pytest.raises(LeaseLost, match="already finished"):
        lease.finish()
    assert made.calls.names.count("finish") == 1


def test_the_keeper_is_stopped_before_the_attempt_is_closed() -> None:
    made, lease = leased()
    lease.finish()
    assert made.calls.names[-3:] == ["keeper stops", "finish", "unlock"]


def test_a_finished_lease_is_not_held() -> None:
    _, lease = leased(LeaseSettings(on_lease_lost="warn"))
    lease.finish()
    with pytest.raises(LeaseLost, match="the attempt is finished"):
        lease.ensure_held()
    with pytest.raises(LeaseLost):
        lease.transaction(object())


@pytest.mark.parametrize("policy", ["stop", "raise"])
def test_a_lost_lease_is_told_at_the_next_check(policy: Any) -> None:
    made, lease = leased(LeaseSettings(on_lease_lost=policy))
    lease.ensure_held()
    made.keeper.trusted_for = 0
    assert lease.lost == "taken over"
    with pytest.raises(LeaseLost, match=r"^backup_daily 2013-01-02T00:00:00Z with token 1: taken over$"):
        lease.ensure_held()


def test_with_warn_a_lost_lease_is_said_once_and_nothing_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    made, lease = leased(LeaseSettings(on_lease_lost="warn"))
    made.keeper.trusted_for = -1
    with caplog.at_level(logging.WARNING):
        lease.ensure_held()
        lease.ensure_held()
    assert caplog.text.count("is lost: taken over") == 1


def test_no_transaction_begins_under_a_lost_lease() -> None:
    made, lease = leased()
    made.keeper.trusted_for = 0
    with pytest.raises(LeaseLost):
        lease.transaction(object())


def test_the_current_lease_is_that_of_the_block_around() -> None:
    _, outer = leased()
    _, inner = leased()
    with outer:
        with inner:
            assert current_lease() is inner
        assert current_lease() is outer
    with pytest.raises(LeaseLost, match="no lease is held here"):
        current_lease()


def test_children_are_told_what_they_work_for() -> None:
    _, lease = leased()
    told = {
        "EXCLUSIVE_JOB": "backup_daily",
        "EXCLUSIVE_RUN_KEY": TICK,
        "EXCLUSIVE_TOKEN": "1",
        "EXCLUSIVE_GENERATION": "1",
        "EXCLUSIVE_OWNER": lease.owner,
    }
    assert told.items() <= lease.environment.items()


def test_a_check_during_the_end_of_a_lease_says_that_it_is_finished() -> None:
    made, lease = leased()
    seen = []

    def stop() -> None:
        seen.append(lease.lost)

    made.keeper.stop = stop  # type: ignore[method-assign]
    lease.finish()
    assert seen == ["the attempt is finished"]
