"""The commands of `airflow-exclusive`."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting
from airflow_exclusive.core.settings import LeaseSettings
from airflow_exclusive.guard import ANSWER_WITHIN, JobGuard
from airflow_exclusive.stores.postgres.statements import DEFAULT_SCHEMA

_BAD_USAGE = 2
_FAILED = 1
_CENTURY = 36525
_MOST = 2**31 - 1


class _Seconds(click.ParamType[float]):
    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)


_redis = click.option(
    "--redis",
    envvar="EXCLUSIVE_REDIS_URL",
    show_envvar=True,
    required=True,
    help="Lock server, e.g. redis://host:6379/0",
)
_postgres = click.option(
    "--postgres",
    envvar="EXCLUSIVE_POSTGRES_DSN",
    show_envvar=True,
    required=True,
    help="Status database, e.g. postgresql://user@host/db",
)
_schema = click.option(
    "--schema",
    envvar="EXCLUSIVE_SCHEMA",
    show_envvar=True,
    default=DEFAULT_SCHEMA,
    show_default=True,
    help="Schema of the tables",
)
_json = click.option("--json", "as_json", is_flag=True, help="For programs: JSON instead of text")


def _stores(command: Callable[..., Any]) -> Callable[..., Any]:
    return _redis(_postgres(_schema(command)))


def _errors_told(command: Callable[..., Any]) -> Callable[..., Any]:
    """Our errors become one line and an exit status instead of a traceback."""

    @functools.wraps(command)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return command(*args, **kwargs)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # what can't be written is to be told while it can
        except InvalidSetting as error:
            _end(_as_given(error), _BAD_USAGE)
        except ExclusiveError as error:
            _end(str(error), _FAILED)
        except OSError as error:
            if error.errno == errno.EPIPE:  # click's: nobody reads on
                raise
            sys.stdout = None
            _end(str(error), _FAILED)

    return told


def _as_given(error: InvalidSetting) -> str:
    """In the words of the command line, which has options where the library has arguments."""
    if error.field == "job_name":
        return str(InvalidSetting("JOB", error.value, error.cure.removesuffix("; leave it out for the default")))
    option = {"lock_ttl": "--ttl"}.get(error.field, f"--{error.field.lstrip('-').replace('_', '-')}")
    return str(InvalidSetting(option, error.value, error.cure.replace("renew=False", "--no-renew")))


def _end(message: str, status: int) -> NoReturn:
    click.echo(f"airflow-exclusive: {message}", err=True)
    sys.exit(status)


@contextmanager
def _guard(redis: str, postgres: str, schema: str) -> Iterator[JobGuard]:
    with JobGuard(redis=redis, postgres=postgres, schema=schema) as guard:
        yield guard


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="airflow-exclusive")
def cli() -> None:
    """Jobs that run on exactly one node, once per tick.

    Exit status: 0 done; 1 it failed, or the answer is no; 2 bad usage; more in `run --help`.
    """


@cli.command()
@click.option("--postgres", envvar="EXCLUSIVE_POSTGRES_DSN", show_envvar=True, help="Database, as its owner")
@_schema
@click.option(
    "--effects",
    is_flag=True,
    help="Only the two tables for lease.transaction(), in a database that receives a job's effects",
)
@click.option("--sql", is_flag=True, help="Print the statements instead, to run them by hand on a new database")
@_json
@_errors_told
def init(postgres: str | None, *, schema: str, effects: bool, sql: bool, as_json: bool) -> None:
    """Create or upgrade the tables. Safe to repeat, and to start on two nodes at once."""
    from airflow_exclusive.cli.display import show_applied
    from airflow_exclusive.stores.postgres.schema import script, upgrade

    if sql:
        if as_json:
            raise InvalidSetting("--sql", True, "prints statements, and can't be given together with --json")
        click.echo(script(schema=schema, status=not effects), nl=False)
        return
    if postgres is None:
        raise InvalidSetting("--postgres", None, "is needed: name the database, or set EXCLUSIVE_POSTGRES_DSN")
    applied = upgrade(postgres, schema=schema, status=not effects)
    show_applied(schema, applied, as_json)


@cli.command()
@click.argument("job")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--run-key", help="The tick; without it the command is guarded against overlap, not against repetition")
@click.option("--cron", help="Take the latest due time of this cron expression as the tick, e.g. '0 2 * * *'")
@click.option("--timezone", default="UTC", show_default=True, help="Time zone of --cron")
@click.option("--ttl", type=_Seconds(), help="Seconds until a silent node is replaced [default: 30]")
@click.option("--wait", type=_Seconds(), default=0.0, help="Seconds to wait while somebody else runs; inf for ever")
@click.option("--rerun", is_flag=True, help="Run the tick again although it is done, as a new generation")
@click.option("--no-renew", is_flag=True, help="A fixed lease: 3 x --expected-duration, or 300 s")
@click.option("--expected-duration", type=_Seconds(), help="Seconds, for --no-renew")
@click.option("--max-run-time", type=_Seconds(), help="End the command after so many seconds")
@click.option("--hold-at-least", type=_Seconds(), default=0.0, help="Keep others out for so many seconds")
@click.option(
    "--on-lease-lost",
    type=click.Choice(["stop", "warn"]),
    default="stop",
    show_default=True,
    help="Stop the command, or warn and go on",
)
@click.option("--on-redis-down", default="fail", show_default=True, help="fail, or postgres to let it decide alone")
@_stores
@_errors_told
def run(
    job: str,
    command: Sequence[str],
    *,
    redis: str,
    postgres: str,
    schema: str,
    run_key: str | None,
    cron: str | None,
    timezone: str,
    ttl: float | None,
    wait: float,
    rerun: bool,
    no_renew: bool,
    expected_duration: float | None,
    max_run_time: float | None,
    hold_at_least: float,
    on_lease_lost: Any,
    on_redis_down: Any,
) -> None:
    """Run COMMAND if JOB's tick is free: exactly one node does.

    \b
        airflow-exclusive run backup --cron '0 2 * * *' -- pg_dump -f /backup/db.sql db

    Exit status: the command's own (128 and the signal's number when a signal ended it, 126 or 127 when it can't be
    started); 0 when the tick is already done; 75 when another node runs the job; 74 when the lease was lost, and the
    command ended for it; 1 when a server doesn't answer; 2 for bad usage. The command is told EXCLUSIVE_JOB,
    EXCLUSIVE_RUN_KEY, EXCLUSIVE_TOKEN and EXCLUSIVE_GENERATION.
    """
    from airflow_exclusive.cli.run import latest_tick, run_guarded

    if cron is not None:
        if run_key is not None:
            raise InvalidSetting("--cron", cron, "can't be given together with --run-key")
        run_key = latest_tick(cron, timezone)
    settings = LeaseSettings(
        ttl=ttl,
        renew=not no_renew,
        expected_duration=expected_duration,
        max_run_time=max_run_time,
        hold_at_least=hold_at_least,
        on_lease_lost=on_lease_lost,
        on_redis_down=on_redis_down,
    )
    with _guard(redis, postgres, schema) as guard:
        status = run_guarded(guard, job, list(command), run_key=run_key, wait=wait, rerun=rerun, settings=settings)
    sys.exit(status)


@cli.command()
@click.argument("job", required=False)
@_json
@_stores
@_errors_told
def status(job: str | None, *, as_json: bool, redis: str, postgres: str, schema: str) -> None:
    """Show who runs JOB, or did so last; without JOB, for all jobs. Exit status 1 where JOB isn't known."""
    from airflow_exclusive.cli.display import show_status

    with _guard(redis, postgres, schema) as guard:
        rows = guard.status(job)
    show_status(rows, as_json)
    if job is not None and not rows:
        _end(f"job {job!r} has never run here", _FAILED)


@cli.command()
@click.argument("job")
@click.option("--run-key", help="Only this tick")
@click.option("--limit", type=click.IntRange(1, _MOST), default=20, show_default=True, help="How many attempts")
@click.option("--refusals", is_flag=True, help="Those who were told no, instead of the attempts")
@_json
@_stores
@_errors_told
def history(
    job: str,
    *,
    run_key: str | None,
    limit: int,
    refusals: bool,
    as_json: bool,
    redis: str,
    postgres: str,
    schema: str,
) -> None:
    """Show the attempts of JOB, newest first."""
    from airflow_exclusive.cli.display import show_history, show_refusals

    with _guard(redis, postgres, schema) as guard:
        if refusals:
            show_refusals(guard.refusals(job, run_key=run_key, limit=limit), as_json)
        else:
            show_history(guard.history(job, run_key=run_key, limit=limit), as_json)


@cli.command()
@click.argument("job")
@click.option("--reason", required=True, help="Goes into the history")
@click.option("--token", type=int, help="Only the attempt with this token, not one that has come after it")
@_json
@_stores
@_errors_told
def release(job: str, *, reason: str, token: int | None, as_json: bool, redis: str, postgres: str, schema: str) -> None:
    """End the running attempt of JOB by hand; its runner is stopped when its keeper asks next."""
    from airflow_exclusive.cli.display import show_history

    if not reason.strip():
        raise InvalidSetting("--reason", reason, "must say why, for whoever reads the history")
    with _guard(redis, postgres, schema) as guard:
        ended = guard.release(job, reason=reason, token=token)
    if as_json or ended:
        show_history([ended] if ended else [], as_json)
    else:
        click.echo(f"{job}: nobody was running" + ("" if token is None else f" with token {token}"))


@cli.command()
@click.option(
    "--older-than", required=True, type=click.IntRange(0, _CENTURY), metavar="DAYS", help="Forget what ended before"
)
@click.option("--effects", is_flag=True, help="The marks of committed steps, in a database that receives effects")
@_json
@_postgres
@_schema
@_errors_told
def purge(older_than: int, *, effects: bool, as_json: bool, postgres: str, schema: str) -> None:
    """Delete old attempts and refusals, a few at a time, while jobs go on. Needs the owner's connection.

    A tick that is forgotten could be run again: keep what a backfill or a late node may still ask for.
    """
    from datetime import datetime, timedelta, timezone

    from airflow_exclusive.cli.display import show_deleted
    from airflow_exclusive.stores.postgres.database import Database
    from airflow_exclusive.stores.postgres.purge import purge as forget

    database = Database(postgres, schema=schema)
    try:
        (row,) = database.run("now", {"now": None}, answer_within=ANSWER_WITHIN)  # not this node's clock
        before = datetime.fromtimestamp(row["now"], timezone.utc) - timedelta(days=older_than)
        deleted = forget(database, "effects" if effects else "status", before)
    finally:
        database.close()
    show_deleted(deleted, as_json)


@cli.command()
@_json
@_stores
@_errors_told
def doctor(*, as_json: bool, redis: str, postgres: str, schema: str) -> None:
    """Look for what is wrong, or will be. Exit status 1 if jobs can't run safely as things are."""
    from airflow_exclusive.cli.display import show_findings
    from airflow_exclusive.stores.postgres import checks as postgres_checks
    from airflow_exclusive.stores.postgres.database import Database
    from airflow_exclusive.stores.redis import checks as redis_checks
    from airflow_exclusive.stores.redis.locks import RedisLocks

    locks = RedisLocks(redis)
    database = Database(postgres, schema=schema, retry_for=0.0, answer_within=ANSWER_WITHIN)
    gate_ahead = functools.partial(redis_checks.clock_ahead, locks)
    findings = [*redis_checks.check(locks), *postgres_checks.check(database, gate_ahead=gate_ahead)]
    locks.close()
    database.close()
    show_findings(findings, as_json)
    if any(finding.level == "error" for finding in findings):
        sys.exit(_FAILED)
