"""`ExclusiveMixin`: an operator whose `execute` runs on one node, once per tick."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_exclusive.airflow.answers import XCOM_KEY, as_xcom, refuse_shared_key
from airflow_exclusive.airflow.asker import default_job_name, default_run_key, source_of
from airflow_exclusive.airflow.compat import (
    AIRFLOW_V_3_0_PLUS,
    SKIPS_WHAT_FOLLOWS,
    AirflowFailException,
    AirflowSkipException,
    Context,
    OperatorPartial,
    TaskStopped,
    reschedule_deps,
)
from airflow_exclusive.airflow.early_checks import checked_partial, checked_unless_template, is_known
from airflow_exclusive.airflow.handover import handed
from airflow_exclusive.airflow.late_fields import LeaseInTemplate, refuse_filters_of_lease, refuse_lease_in
from airflow_exclusive.airflow.link import ExclusiveJobLink
from airflow_exclusive.airflow.names_taken import THEIRS, own_parameters, taken, under_own_names, with_own_names
from airflow_exclusive.airflow.orphan import output_outlives_supervisor
from airflow_exclusive.airflow.results import ResultMissing, hand_over
from airflow_exclusive.airflow.waiting import DEFAULT_INTERVAL, Waiter, WaitMode, chosen, trigger_arguments
from airflow_exclusive.airflow.work import SKIPPED, Work
from airflow_exclusive.core.errors import InvalidSetting, LeaseLost, NotAdmitted
from airflow_exclusive.core.names import check_job_name, check_run_key
from airflow_exclusive.core.settings import (
    LeaseSettings,
    OnBusy,
    OnDone,
    OnLeaseLost,
    OnRedisDown,
    check_choice,
    check_seconds,
)

if TYPE_CHECKING:
    from airflow_exclusive.core.admission import Admitted, AlreadyDone, Busy

OWN_TEMPLATE_FIELDS = ("job_name", "run_key")
_FOREVER = float("inf")

Seconds = float | timedelta | None


class ExclusiveMixin:
    """Put before an operator class: `class MyOperator(ExclusiveMixin, SomeOperator)`, or use `exclusive(SomeOperator)`.

    The work, that is `execute` and `on_kill`, has to be in SomeOperator: what MyOperator had of them would come first.

    job_name: what must have one executor; templated; default `<dag_id>.<task_id>` (`[<map_index>]` if mapped).
    run_key: the tick; templated; default the fire time of the DAG run, or its run_id where it has none.
    redis_conn_id, postgres_conn_id: the two stores; default from `[exclusive]`.
    on_busy: somebody else has the job: "skip" the task, "wait" until the tick is done or its runner dead, or "fail".
    on_done: the tick has been done elsewhere: "skip" the task, count it as a "success", or "fail".
    wait_timeout: give up waiting after this time (with on_busy="wait"), counted from when the try first asked.
    wait_mode: where to wait, for others or for an earlier attempt of the same task instance: in the "worker"; "defer":
        in the triggerer; "reschedule": nowhere, but ask again every `wait_interval`, or when the lease in the way
        lapses. Left out: "defer" with `[operators] default_deferrable`, "reschedule" under the SequentialExecutor.
    lock_ttl, renew, expected_duration, max_run_time, hold_at_least, on_lease_lost, on_redis_down: see `LeaseSettings`.

    Where the operator has an argument of one of these names itself, that is its own, and the one here is called
    `exclusive_<name>`: `exclusive(RedisPublishOperator)(redis_conn_id="app", exclusive_redis_conn_id="locks", …)`.

    Durations are seconds or a timedelta. Raises `InvalidSetting` when the DAG is parsed.

    While the task runs, its lease is `context["lease"]`, `current_lease()` and `self.lease` (unless the operator has an
    attribute of that name itself); child processes have it
    in `EXCLUSIVE_TOKEN` and the like; templates may use `{{ lease.token }}`. What was decided is in XCom `exclusive`.
    """

    inherits_from_empty_operator = False
    """Of an empty operator Airflow's scheduler says itself that it is done."""
    exclusive_names: ClassVar[Mapping[str, str]] = {}
    """What those of our arguments, and attributes, are called whose name the operator has taken."""
    exclusive_asked_for: str | None = None
    """The job, once this process has asked."""
    wait_mode: WaitMode = "worker"
    exclusive_wait_mode_left_out = True  # for the checks of DAGs, which also ask about other deployments
    __work: Work | None = None
    """What it does or did last, in this process."""
    __rendered_within: tuple[tuple[Any, tuple[str, ...]], ...] = ()
    """Objects in the templated fields, and their own fields of that kind."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Airflow applies default_args and checks arguments only in the `__init__` of an operator class of its own, so
        # that a class that merely inherits the one below needs a copy.
        super().__init_subclass__(**kwargs)
        own = cls.__mro__.index(ExclusiveMixin)
        _refuse_work_before(cls.__mro__[:own])
        if deps := reschedule_deps():
            cls.deps = cls.deps | deps  # type: ignore[attr-defined]
        cls.operator_extra_links = _with_link(cls)  # type: ignore[attr-defined]
        cls.exclusive_names = taken(_OWN, cls.__mro__[own + 1 :])
        if cls.__init__ is ExclusiveMixin.__init__:

            @wraps(ExclusiveMixin.__init__)
            def own_init(self: Any, **kwargs: Any) -> None:
                ExclusiveMixin.__init__(self, **kwargs)

            own_init.__signature__ = own_parameters(own_init, cls.exclusive_names)  # type: ignore[attr-defined]
            cls.__init__ = own_init  # type: ignore[method-assign]

    @under_own_names
    def __init__(
        self,
        *,
        job_name: str | None = None,
        run_key: str | None = None,
        redis_conn_id: str | None = None,
        postgres_conn_id: str | None = None,
        on_busy: OnBusy = "skip",
        on_done: OnDone = "skip",
        wait_timeout: Seconds = None,
        wait_mode: WaitMode | None = None,
        wait_interval: Seconds = DEFAULT_INTERVAL,
        lock_ttl: Seconds = None,
        renew: bool = True,
        expected_duration: Seconds = None,
        max_run_time: Seconds = None,
        hold_at_least: Seconds = 0.0,
        on_lease_lost: OnLeaseLost = "stop",
        on_redis_down: OnRedisDown = "fail",
        **kwargs: Any,
    ) -> None:
        theirs = kwargs.pop(THEIRS, {})
        super().__init__(**kwargs, **theirs)
        check_choice("on_busy", on_busy, OnBusy)
        check_choice("on_done", on_done, OnDone)
        if wait_timeout is not None and on_busy != "wait":
            raise InvalidSetting("wait_timeout", wait_timeout, "only counts with on_busy='wait': add that or remove it")
        self.__keep(
            job_name=job_name if job_name is None else checked_unless_template(check_job_name, job_name),
            run_key=run_key if run_key is None else checked_unless_template(check_run_key, run_key),
            redis_conn_id=redis_conn_id,
            postgres_conn_id=postgres_conn_id,
            on_busy=on_busy,
            on_done=on_done,
            wait_timeout=None if wait_timeout is None else check_seconds("wait_timeout", _seconds(wait_timeout)),
            wait_mode=chosen(wait_mode),
            wait_interval=check_seconds("wait_interval", _seconds(wait_interval), least=1.0),
        )
        # what a template makes of it may be None, too: that is no name, nor the default one
        self.__has_job_name, self.__has_run_key = job_name is not None, run_key is not None
        self.exclusive_wait_mode_left_out = wait_mode is None
        self.exclusive_lease_settings = LeaseSettings(
            ttl=_seconds(lock_ttl),
            renew=renew,
            expected_duration=_seconds(expected_duration),
            max_run_time=_seconds(max_run_time),
            hold_at_least=0.0 if hold_at_least is None else _seconds(hold_at_least),  # type: ignore[arg-type]
            on_lease_lost=on_lease_lost,
            on_redis_down=on_redis_down,
        )
        _check_keeps_lease({name: getattr(self, name, None) for name in ("deferrable", "mode", "start_from_trigger")})

    def exclusive_setting(self, name: str) -> Any:
        """The value of our argument of this name, whatever it is called here."""
        return getattr(self, self.exclusive_names.get(name, name))

    def __keep(self, **values: Any) -> None:
        for name, value in values.items():
            if self.exclusive_names.get(name, name) in vars(self):
                raise InvalidSetting(
                    name,
                    value,
                    f"would replace an attribute {name} that the operator keeps itself: give its class an argument"
                    f" of this name, and ours is called exclusive_{name}",
                )
            setattr(self, self.exclusive_names.get(name, name), value)

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """The tasks are only made when they run: what is known of their settings now is checked now."""
        check = with_own_names(check_own, cls.exclusive_names)
        check(kwargs)
        of_class = {"start_from_trigger": cls.start_from_trigger}  # type: ignore[attr-defined]
        _check_keeps_lease(of_class | {name: value for name, value in kwargs.items() if is_known(value)})
        made = super().partial(**kwargs)  # type: ignore[misc]
        made._expand_called = True
        asking = _AsksFirst(operator_class=cls, kwargs=made.kwargs, params=made.params)
        return checked_partial(check, kwargs, asking)

    def execute(self, context: Context, event: dict[str, Any] | None = None, **for_airflow: Any) -> Any:
        """Also where a trigger's `event` comes back to. `for_airflow`: Airflow 2's sign that it calls this itself."""
        self.__work = work = Work(self, super().execute, super().on_kill)  # type: ignore[misc]
        try:
            return self.__do_if_admitted(work, context, event, for_airflow)
        except TaskStopped as stopped:
            if work.lost:
                raise LeaseLost(str(stopped)) from stopped
            raise
        finally:
            work.over = True

    def __do_if_admitted(
        self, work: Work, context: Context, event: dict[str, Any] | None, for_airflow: dict[str, Any]
    ) -> Any:
        from airflow_exclusive.airflow.connections import open_guard
        from airflow_exclusive.airflow.listener import confirm_later, confirm_skip
        from airflow_exclusive.core.admission import Admitted, Busy

        job_name = check_job_name(
            self.exclusive_setting("job_name") if self.__has_job_name else default_job_name(context)
        )
        run_key = check_run_key(self.exclusive_setting("run_key") if self.__has_run_key else default_run_key(context))
        for field, value in (("job_name", job_name), ("run_key", run_key)):
            refuse_lease_in(field, value)
        self.exclusive_asked_for = job_name
        source = source_of(context)
        guard = open_guard(self.exclusive_setting("redis_conn_id"), self.exclusive_setting("postgres_conn_id"))
        answer: Admitted | Busy | AlreadyDone | None = None
        try:
            timeout = self.exclusive_setting("wait_timeout")
            patience = _FOREVER if timeout is None else timeout
            wait = patience if self.exclusive_setting("on_busy") == "wait" else 0.0
            waiter = Waiter.back(self.exclusive_setting("wait_mode"), context, event, guard.statuses.clock)
            answer = guard.admit(
                job_name,
                run_key=run_key,
                wait=wait,
                source=source,
                settings=self.exclusive_lease_settings,
                elsewhere=waiter.elsewhere,
            )
            if isinstance(answer, Admitted):
                lease = answer.lease
                with (
                    work.under(lease),
                    output_outlives_supervisor(),
                    handed(lease, self, context, self.__rendered_within),
                ):
                    self.__tell(context, answer)
                    result = work.do(lease, context, for_airflow)
            elif isinstance(answer, Busy) and answer.wait_left:
                self.log.info("%s; waiting (%s)", answer, self.exclusive_setting("wait_mode"))  # type: ignore[attr-defined]
                waiter.leave(
                    answer,
                    interval=self.exclusive_setting("wait_interval"),
                    asked=trigger_arguments(self, job_name, run_key, source, wait),
                )
            else:
                self.__tell(context, answer)
                refuse_shared_key(answer, source)
                result = self.__turn_away(answer, context)
        except BaseException as error:
            its_own = isinstance(answer, Admitted) or getattr(answer, "by_own_attempt", False)
            if its_own and isinstance(error, (AirflowSkipException, *SKIPS_WHAT_FOLLOWS)):
                confirm_later(guard, job_name, run_key, source)
                if isinstance(error, AirflowSkipException):
                    confirm_skip()
            else:
                try:
                    if isinstance(error, ResultMissing):  # it tells of the success: who clears it now wants it again
                        guard.confirm(job_name, run_key, source)
                finally:
                    guard.close()
            raise
        confirm_later(guard, job_name, run_key, source)
        return result

    @property
    def reschedule(self) -> bool:
        """For the scheduler: the task may ask to be started again later. Not any more while it has the lease."""
        if self.__has_lease:
            return False
        return self.exclusive_setting("wait_mode") == "reschedule" or getattr(super(), "reschedule", False)

    @classmethod
    def get_serialized_fields(cls) -> Any:
        fields = super().get_serialized_fields()  # type: ignore[misc]
        return fields if AIRFLOW_V_3_0_PLUS else fields | {"reschedule"}

    def on_kill(self) -> None:
        if self.__work is not None:
            self.__work.stop()

    @property
    def __has_lease(self) -> bool:
        return self.__work is not None and self.__work.lease is not None

    def __tell(self, context: Context, answer: Admitted | Busy | AlreadyDone) -> None:
        self.log.info("%s", answer)  # type: ignore[attr-defined]
        if getattr(self, "do_xcom_push", True):
            context["ti"].xcom_push(key=XCOM_KEY, value=as_xcom(answer))

    def __turn_away(self, answer: Busy | AlreadyDone, context: Context) -> Any:
        """End the task by its policy; where that means success, give what it returns."""
        from airflow_exclusive.core.admission import Busy

        if isinstance(answer, Busy):
            if self.exclusive_setting("on_busy") == "skip":
                raise AirflowSkipException(str(answer))
            raise NotAdmitted(answer)
        if answer.by_own_attempt:
            if (answer.run.error or "").startswith(SKIPPED):
                raise AirflowSkipException(f"an earlier attempt of this task instance {answer.run.error}")
            result = hand_over(answer.result, context)
            self.log.info("an earlier attempt of this task instance did it: success without running again")  # type: ignore[attr-defined]
            return result
        if self.exclusive_setting("on_done") == "skip":
            raise AirflowSkipException(str(answer))
        if self.exclusive_setting("on_done") == "fail":
            raise AirflowFailException(str(answer))
        return None

    def _do_render_template_fields(
        self, parent: Any, template_fields: Any, context: Context, *args: Any, **kw: Any
    ) -> None:
        own = own_template_fields(self.exclusive_names) if parent is self else ()
        if not self.__has_lease:  # else an operator renders once more while it works
            if parent is not self:
                self.__rendered_within = (*self.__rendered_within, (parent, tuple(template_fields)))
            refuse_filters_of_lease({field: getattr(parent, field, None) for field in template_fields})
            context["lease"] = LeaseInTemplate()  # type: ignore[typeddict-unknown-key]
        render = super()._do_render_template_fields  # type: ignore[misc]
        names = [field for field in template_fields if field in own]
        with _instead(self, template_ext=()):  # what ends like a file's name isn't to be read
            render(parent, names, context, *args, **kw)
        render(parent, [field for field in template_fields if field not in names], context, *args, **kw)

    def resolve_template_files(self) -> None:
        """Not of a job's or a tick's name: it may look like that of a file."""
        names = own_template_fields(self.exclusive_names)
        fields = [field for field in self.template_fields if field not in names]  # type: ignore[attr-defined]
        with _instead(self, template_fields=fields):
            super().resolve_template_files()  # type: ignore[misc]


class _AsksFirst(OperatorPartial):  # type: ignore[misc]
    """Makes mapped tasks that Airflow neither takes for empty nor lets begin in the triggerer."""

    def _expand(self, *args: Any, **kw: Any) -> Any:
        made = super()._expand(*args, **kw)
        made._is_empty, made.start_trigger_args = False, None
        return made


def own_template_fields(names: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(names.get(field, field) for field in OWN_TEMPLATE_FIELDS)


@contextmanager
def _instead(task: Any, **attributes: Any) -> Iterator[None]:
    """The task with these attributes, for a while."""
    own = vars(task)
    before = {name: own[name] for name in attributes.keys() & own.keys()}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)


def check_partial(given: Mapping[str, Any]) -> None:
    """Raise the `InvalidSetting` that a task with these arguments, and others that aren't known yet, would raise."""
    check_own(given)
    _check_keeps_lease({name: value for name, value in given.items() if is_known(value)})


def check_own(given: Mapping[str, Any]) -> None:
    """The same for the arguments of `ExclusiveMixin` alone."""
    known = {name: given[name] for name in _OWN & given.keys() if is_known(given[name])}
    # What decides whether others count may come with the mapping, or from default_args.
    ExclusiveMixin(**{"on_busy": "wait", "renew": False, **known})


def _refuse_work_before(classes: Iterable[type]) -> None:
    """What comes before `ExclusiveMixin` is called instead of it, whether it calls on or not."""
    for each in classes:
        for name in ("execute", "on_kill"):
            if name in vars(each):
                raise InvalidSetting(
                    name,
                    f"{each.__name__}.{name}",
                    "comes before ExclusiveMixin, so it would run without the lease: put the work in an operator"
                    " class X of its own, and write class Y(ExclusiveMixin, X), or exclusive(X)",
                )


def _check_keeps_lease(settings: Mapping[str, Any]) -> None:
    if settings.get("deferrable"):
        raise InvalidSetting("deferrable", True, "an exclusive task can't defer yet: set deferrable=False")
    if settings.get("start_from_trigger"):
        raise InvalidSetting("start_from_trigger", True, "it would begin without asking: set it to False")
    if settings.get("mode") == "reschedule":
        raise InvalidSetting("mode", "reschedule", "an exclusive sensor gives up its lease then: set mode='poke'")


def _with_link(operator: type) -> Any:
    """Its own links and that to its job; where a property finds its own, those alone, as nobody knows them before."""
    links = operator.operator_extra_links  # type: ignore[attr-defined]
    if isinstance(links, property) or any(isinstance(link, ExclusiveJobLink) for link in links):
        return links
    return (*links, ExclusiveJobLink())


_OWN = signature(ExclusiveMixin).parameters.keys() - {"kwargs"}


def _seconds(value: Seconds) -> float | None:
    return value.total_seconds() if isinstance(value, timedelta) else value
