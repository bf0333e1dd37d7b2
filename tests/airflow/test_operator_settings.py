"""What an operator refuses when the DAG is parsed, what it leaves for later, and what `default_args` do."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator, BaseSensorOperator, TaskGroup, task
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import (
    BranchExternalPythonOperator,
    ExternalPythonOperator,
    PythonOperator,
    PythonVirtualenvOperator,
)
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from jinja2.sandbox import SandboxedEnvironment

from airflow_exclusive import (
    ExclusiveBashOperator,
    ExclusivePythonOperator,
    JobAdmissionSensor,
    JobStatusSensor,
    exclusive,
    exclusive_task,
)
from airflow_exclusive.airflow import connections
from airflow_exclusive.airflow.decorators import ExclusiveDecoratedOperator
from airflow_exclusive.airflow.mixin import ExclusiveMixin
from airflow_exclusive.core.errors import InvalidSetting
from tests.airflow.compat import UnknownArgument
from tests.airflow.context import context_of
from tests.support.fakes import World

Make = Callable[..., Any]


def bash(**settings: Any) -> Any:
    return ExclusiveBashOperator(task_id="work", bash_command="true", **settings)


def python(**settings: Any) -> Any:
    return ExclusivePythonOperator(task_id="work", python_callable=print, **settings)


def any_other(**settings: Any) -> Any:
    return exclusive(EmptyOperator)(task_id="work", **settings)


def decorated(**settings: Any) -> Any:
    @exclusive_task(**settings)
    def work() -> None: ...

    return work().operator


MAKERS = [bash, python, any_other, decorated]


@pytest.fixture
def dag() -> Any:
    with DAG("any", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None) as dag:
        yield dag


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"job_name": ""}, "job_name", "must not be empty; leave it out for the default"),
    ({"job_name": " "}, "job_name", "must not be empty"),
    ({"job_name": "x" * 301}, "job_name", "has 301 characters; at most 250"),
    ({"job_name": "a\nb"}, "job_name", r"has the control character '\n'; remove it"),
    ({"job_name": 7}, "job_name", "must be text, not int"),
    ({"run_key": 20130102}, "run_key", "must be text, not int"),
    ({"run_key": ""}, "run_key", "must not be empty"),
    ({"lock_ttl": 0}, "lock_ttl", "between 1 and 604800 seconds"),
    ({"lock_ttl": -1}, "lock_ttl", "between 1 and 604800 seconds"),
    ({"lock_ttl": "30"}, "lock_ttl", "must be a number of seconds"),
    ({"lock_ttl": math.nan}, "lock_ttl", "must be a number of seconds"),
    ({"lock_ttl": True}, "lock_ttl", "must be a number of seconds"),
    ({"lock_ttl": timedelta(0)}, "lock_ttl", "between 1 and 604800 seconds"),
    ({"on_busy": "explode"}, "on_busy", "must be one of 'skip', 'wait', 'fail'"),
    ({"wait_mode": "nap"}, "wait_mode", "must be one of 'worker', 'reschedule', 'defer'"),
    ({"wait_interval": 0}, "wait_interval", "must be between 1"),
    ({"wait_interval": "30"}, "wait_interval", "must be a number of seconds"),
    ({"wait_interval": math.inf}, "wait_interval", "must be a number of seconds"),
    ({"on_done": "wait"}, "on_done", "must be one of 'skip', 'success', 'fail'"),
    ({"on_lease_lost": "ignore"}, "on_lease_lost", "must be one of 'stop', 'raise', 'warn'"),
    ({"on_redis_down": True}, "on_redis_down", "must be one of 'fail', 'postgres'"),
    ({"wait_timeout": 60}, "wait_timeout", "only counts with on_busy='wait': add that or remove it"),
    ({"wait_timeout": -1, "on_busy": "wait"}, "wait_timeout", "must be between 0"),
    ({"wait_timeout": "1", "on_busy": "wait"}, "wait_timeout", "must be a number of seconds"),
    ({"expected_duration": 30}, "expected_duration", "only counts with renew=False"),
    ({"renew": "yes"}, "renew", "must be True or False"),
    ({"max_run_time": 0}, "max_run_time", "must be between 1"),
    ({"hold_at_least": -1}, "hold_at_least", "must be between 0"),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("settings", "field", "cure"), WRONG, ids=repr)
def test_a_setting_that_cannot_work_is_refused_when_the_dag_is_parsed(
    dag: DAG, make: Make, settings: dict[str, Any], field: str, cure: str
) -> None:
    with pytest.raises(InvalidSetting) as refused:
        make(**settings)
    assert_tells(refused.value, settings[field], field, cure)


def assert_tells(error: InvalidSetting, given: Any, field: str, cure: str) -> None:
    value = given.total_seconds() if isinstance(given, timedelta) else given
    assert str(error).startswith(f"{field}={value!r}: ")
    assert cure in str(error)


def mapped_bash(**settings: Any) -> Any:
    return ExclusiveBashOperator.partial(task_id="work", **settings).expand(bash_command=["true"])


def mapped_other(**settings: Any) -> Any:
    return exclusive(Templated).partial(task_id="work", **settings).expand_kwargs([{"sql": "a"}, {"sql": "b"}])


def mapped_function(**settings: Any) -> Any:
    @exclusive_task(**settings)
    def work(day: int) -> None: ...

    return work.expand(day=[1, 2]).operator


def partial_function(**settings: Any) -> Any:
    @exclusive_task(**settings)
    def work(day: int, town: str) -> None: ...

    return work.partial(town="York").expand_kwargs([{"day": 1}]).operator


def overridden_function(**settings: Any) -> Any:
    @exclusive_task
    def work(day: int) -> None: ...

    return work.override(**settings).expand(day=[1, 2]).operator


MAPPED = [mapped_bash, mapped_other, mapped_function, partial_function, overridden_function]
BY_THE_MAPPING = ("wait_timeout", "expected_duration")
"""Whether these fit depends on a setting that may be mapped over."""


@pytest.mark.parametrize("make", MAPPED)
@pytest.mark.parametrize(
    ("settings", "field", "cure"), [one for one in WRONG if tuple(one[0]) not in [(n,) for n in BY_THE_MAPPING]]
)
def test_it_is_refused_as_soon_for_mapped_tasks(
    dag: DAG, make: Make, settings: dict[str, Any], field: str, cure: str
) -> None:
    with pytest.raises(InvalidSetting) as refused:
        make(**settings)
    assert_tells(refused.value, settings[field], field, cure)


@pytest.mark.parametrize("make", MAPPED)
@pytest.mark.parametrize("settings", [{"wait_timeout": 60, "on_busy": "skip"}, {"expected_duration": 9, "renew": True}])
def test_settings_of_mapped_tasks_have_to_fit_each_other(dag: DAG, make: Make, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match="only counts with"):
        make(**settings)


def test_what_a_setting_is_to_fit_may_be_mapped_over(dag: DAG) -> None:
    both = ExclusiveBashOperator.partial(task_id="work", bash_command="true", wait_timeout=60, expected_duration=9)
    assert both.expand(on_busy=["wait"], renew=[False]).task_id == "work"


@pytest.mark.parametrize("make", MAPPED)
def test_what_a_mapped_task_is_given_when_it_runs_is_not_judged(dag: DAG, make: Make) -> None:
    upstream = EmptyOperator(task_id="upstream")
    task = make(job_name=upstream.output, run_key="{{ '\n' }}")
    assert task.upstream_task_ids == {"upstream"}


@pytest.mark.parametrize("sensor", [JobAdmissionSensor, JobStatusSensor])
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"job_name": ""}, "job_name='': must not be empty"),
        ({"job_name": 7}, "job_name=7: must be text"),
        ({"run_key": 7}, "run_key=7: must be text"),
    ],
)
def test_mapped_sensors_refuse_it_as_well(dag: DAG, sensor: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSetting, match=says):
        sensor.partial(task_id="sense", **settings).expand(timeout=[1, 2])


def test_a_mapped_admission_sensor_knows_three_answers_to_done(dag: DAG) -> None:
    with pytest.raises(InvalidSetting, match="on_done='wait': must be one of"):
        JobAdmissionSensor.partial(task_id="sense", on_done="wait").expand(job_name=["a", "b"])


@pytest.mark.parametrize("sensor", [JobAdmissionSensor, JobStatusSensor])
def test_a_mapped_sensor_leaves_alone_what_it_is_given_when_it_runs(dag: DAG, sensor: Any) -> None:
    upstream = EmptyOperator(task_id="upstream")
    task = sensor.partial(task_id="sense", run_key="{{ '' }}", job_name=upstream.output).expand(timeout=[1, 2])
    assert task.upstream_task_ids == {"upstream"}


def test_a_mapped_task_that_would_defer_or_lose_its_lease_is_refused(dag: DAG) -> None:
    with pytest.raises(InvalidSetting, match=r"deferrable=True: .*set deferrable=False"):
        exclusive(TriggerDagRunOperator).partial(task_id="a", deferrable=True).expand(trigger_dag_id=["any"])

    class Sensor(BaseSensorOperator): ...

    with pytest.raises(InvalidSetting, match=r"mode='reschedule': .*set mode='poke'"):
        exclusive(Sensor).partial(task_id="b", mode="reschedule").expand(timeout=[1])


def test_a_class_that_would_begin_in_the_triggerer_is_refused_mapped_as_well(dag: DAG) -> None:
    class Starts(BaseOperator):
        start_from_trigger = True

    with pytest.raises(InvalidSetting, match=r"start_from_trigger=True: .*set it to False"):
        exclusive(Starts)(task_id="work")
    with pytest.raises(InvalidSetting, match=r"start_from_trigger=True: .*set it to False"):
        exclusive(Starts).partial(task_id="mapped")


def test_a_task_that_would_defer_is_refused(dag: DAG) -> None:
    with pytest.raises(InvalidSetting, match=r"deferrable=True: .*set deferrable=False"):
        exclusive(TriggerDagRunOperator)(task_id="work", trigger_dag_id="any", deferrable=True)


def test_a_sensor_that_would_lose_its_lease_between_pokes_is_refused(dag: DAG) -> None:
    class Sensor(BaseSensorOperator): ...

    with pytest.raises(InvalidSetting, match=r"mode='reschedule': .*set mode='poke'"):
        exclusive(Sensor)(task_id="work", mode="reschedule")
    exclusive(Sensor)(task_id="poking", mode="poke")


@pytest.mark.parametrize("sensor", [JobAdmissionSensor, JobStatusSensor])
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"job_name": ""}, "job_name='': must not be empty"),
        ({"job_name": 7}, "job_name=7: must be text"),
        ({"job_name": "x", "run_key": 7}, "run_key=7: must be text"),
    ],
)
def test_sensors_refuse_what_operators_refuse(dag: DAG, sensor: Make, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSetting, match=says):
        sensor(task_id="sense", **settings)


def test_an_admission_sensor_knows_three_answers_to_done(dag: DAG) -> None:
    with pytest.raises(InvalidSetting, match="on_done='wait': must be one of"):
        JobAdmissionSensor(task_id="sense", job_name="x", on_done="wait")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("later", ["{{ params.name }}", "a{% if ds %}b{% endif %}" + "x" * 300, "{{ '\n' }}"])
def test_what_a_template_will_give_is_not_judged_when_the_dag_is_parsed(dag: DAG, make: Make, later: str) -> None:
    task = make(job_name=later, run_key=later)
    assert (task.job_name, task.run_key) == (later, later)


@pytest.mark.parametrize("make", MAKERS)
def test_what_an_upstream_task_will_give_is_not_judged_when_the_dag_is_parsed(dag: DAG, make: Make) -> None:
    upstream = EmptyOperator(task_id="upstream")
    task = make(job_name=upstream.output, run_key=upstream.output)
    assert task.upstream_task_ids == {"upstream"}


@pytest.mark.parametrize("make", MAKERS)
def test_durations_may_be_timedeltas(dag: DAG, make: Make) -> None:
    minute = timedelta(minutes=1)
    task = make(lock_ttl=minute, max_run_time=minute, hold_at_least=minute, on_busy="wait", wait_timeout=minute)
    settings = task.exclusive_lease_settings
    assert (settings.ttl, settings.max_run_time, settings.hold_at_least, task.wait_timeout) == (60, 60, 60, 60)


@pytest.mark.parametrize("make", MAKERS)
def test_default_args_apply(make: Make) -> None:
    arguments = {"lock_ttl": 77, "on_busy": "wait", "job_name": "from default_args", "retries": 5}
    with DAG("any", schedule=None, default_args=arguments):
        task = make(on_done="fail")
    assert task.exclusive_lease_settings.ttl == 77
    assert (task.on_busy, task.on_done, task.job_name, task.retries) == ("wait", "fail", "from default_args", 5)


@pytest.mark.parametrize("make", MAKERS)
def test_what_a_task_says_itself_beats_default_args(make: Make) -> None:
    with DAG("any", schedule=None, default_args={"lock_ttl": 77, "on_busy": "wait"}):
        task = make(lock_ttl=5, on_busy="fail")
    assert (task.exclusive_lease_settings.ttl, task.on_busy) == (5, "fail")


@pytest.mark.parametrize("make", [bash, decorated])
@pytest.mark.parametrize(("settings", "field", "cure"), WRONG, ids=repr)
def test_a_default_arg_that_cannot_work_is_refused_like_a_tasks_own(
    make: Make, settings: dict[str, Any], field: str, cure: str
) -> None:
    with DAG("any", schedule=None, default_args=settings), pytest.raises(InvalidSetting) as refused:
        make()
    assert_tells(refused.value, settings[field], field, cure)


@pytest.mark.parametrize("make", MAPPED)
@pytest.mark.parametrize(
    ("settings", "field", "cure"), [one for one in WRONG if tuple(one[0]) not in [(n,) for n in BY_THE_MAPPING]]
)
def test_a_default_arg_that_cannot_work_is_refused_for_mapped_tasks(
    make: Make, settings: dict[str, Any], field: str, cure: str
) -> None:
    with DAG("any", schedule=None, default_args=settings), pytest.raises(InvalidSetting) as refused:
        make()
    assert_tells(refused.value, settings[field], field, cure)


@pytest.mark.parametrize("make", [*MAKERS, *MAPPED])
def test_default_args_of_a_group_and_of_a_task_are_judged_as_well(make: Make) -> None:
    with DAG("any", schedule=None, default_args={"lock_ttl": 60}):
        with TaskGroup("group", default_args={"lock_ttl": 0}), pytest.raises(InvalidSetting, match="lock_ttl=0"):
            make()
        with pytest.raises(InvalidSetting, match="on_busy='pray'"):
            make(default_args={"on_busy": "pray"})


@pytest.mark.parametrize("make", [*MAKERS, *MAPPED])
def test_a_default_arg_that_the_task_replaces_is_not_judged(make: Make) -> None:
    with DAG("any", schedule=None, default_args={"lock_ttl": 0, "mode": "reschedule"}):
        assert make(lock_ttl=60).task_id == "work"


def test_what_a_default_arg_is_to_fit_may_be_mapped_over() -> None:
    with DAG("any", schedule=None, default_args={"on_busy": "skip", "renew": True, "expected_duration": 9}):
        partial = ExclusiveBashOperator.partial(task_id="work", bash_command="true", wait_timeout=60)
        assert partial.expand(on_busy=["wait"], renew=[False]).task_id == "work"


@pytest.mark.parametrize("make", MAPPED)
def test_default_args_that_a_template_will_give_are_not_judged(make: Make) -> None:
    with DAG("any", schedule=None, default_args={"job_name": "{{ '\n' }}"}):
        assert make().task_id == "work"


@pytest.mark.parametrize("sensor", [JobAdmissionSensor, JobStatusSensor])
@pytest.mark.parametrize("wrong", [{"job_name": 7}, {"job_name": "x", "run_key": ""}], ids=str)
def test_default_args_of_sensors_are_judged(sensor: Any, wrong: dict[str, Any]) -> None:
    with DAG("any", schedule=None, default_args=wrong):
        with pytest.raises(InvalidSetting, match="must"):
            sensor(task_id="one")
        with pytest.raises(InvalidSetting, match="must"):
            sensor.partial(task_id="many").expand(timeout=[1, 2])


def test_the_answer_to_done_of_a_sensor_may_be_wrong_in_default_args() -> None:
    with DAG("any", schedule=None, default_args={"on_done": "wait"}):
        with pytest.raises(InvalidSetting, match="on_done='wait'"):
            JobAdmissionSensor(task_id="one", job_name="x")
        with pytest.raises(InvalidSetting, match="on_done='wait'"):
            JobAdmissionSensor.partial(task_id="many").expand(job_name=["a", "b"])
        assert JobStatusSensor.partial(task_id="other").expand(job_name=["a", "b"])


@pytest.mark.parametrize("make", MAKERS)
def test_an_argument_that_nobody_knows_is_refused_as_by_any_operator(dag: DAG, make: Make) -> None:
    with pytest.raises(UnknownArgument, match="lock_tll"):
        make(lock_tll=30)


def test_asked_for_twice_it_is_the_same_class() -> None:
    assert exclusive(EmptyOperator) is exclusive(EmptyOperator)
    assert exclusive(exclusive(EmptyOperator)) is exclusive(EmptyOperator)
    assert exclusive(ExclusiveBashOperator) is ExclusiveBashOperator


def test_an_exclusive_operator_is_still_one_of_its_kind() -> None:
    made = exclusive(EmptyOperator)
    assert issubclass(made, EmptyOperator)
    assert made.__name__ == "ExclusiveEmptyOperator"


@pytest.mark.parametrize("given", [print, "BashOperator", object, None])
def test_only_operators_can_be_exclusive(given: Any) -> None:
    with pytest.raises(InvalidSetting, match="must be given an operator class"):
        exclusive(given)


def test_an_instance_is_not_an_operator_class(dag: DAG) -> None:
    with pytest.raises(InvalidSetting, match="must be given an operator class"):
        exclusive(EmptyOperator(task_id="made"))  # type: ignore[type-var]


class Templated(BaseOperator):
    template_fields = ("sql",)

    def __init__(self, *, sql: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sql = sql


@pytest.mark.parametrize(
    ("operator", "fields"),
    [
        (ExclusiveBashOperator, {"bash_command", "env", "cwd"}),
        (ExclusivePythonOperator, set(PythonOperator.template_fields)),
        (ExclusiveDecoratedOperator, set(PythonOperator.template_fields)),
        (exclusive(Templated), {"sql"}),
    ],
)
def test_job_and_tick_are_templated_besides_the_operators_own_fields(operator: Any, fields: set[str]) -> None:
    assert {"job_name", "run_key", *fields} <= set(operator.template_fields)


@pytest.mark.parametrize("sensor", [JobAdmissionSensor, JobStatusSensor])
def test_a_sensors_job_and_tick_are_templated(sensor: Any) -> None:
    assert set(sensor.template_fields) >= {"job_name", "run_key"}


def test_a_function_gets_the_lease_only_if_it_asks_for_it(dag: DAG) -> None:
    def wants(lease: Any, day: str) -> None: ...
    def brings(lease: Any) -> None: ...

    asked = ExclusivePythonOperator(task_id="asks", python_callable=wants, op_kwargs={"day": "x"})
    own = ExclusivePythonOperator(task_id="brings", python_callable=brings, op_kwargs={"lease": "mine"})
    asked.take_lease("the lease")  # type: ignore[arg-type]
    own.take_lease("the lease")  # type: ignore[arg-type]
    assert asked.op_kwargs == {"day": "x", "lease": "the lease"}
    assert own.op_kwargs == {"lease": "mine"}


def test_a_functions_arguments_may_come_from_an_upstream_task(dag: DAG) -> None:
    def wants(lease: Any, day: str) -> None: ...

    task: Any = ExclusivePythonOperator(
        task_id="work", python_callable=wants, op_kwargs=EmptyOperator(task_id="upstream").output
    )
    assert task.upstream_task_ids == {"upstream"}
    task.op_kwargs = {"day": "monday"}  # as it is once the upstream task has run
    task.take_lease("the lease")
    assert task.op_kwargs == {"day": "monday", "lease": "the lease"}


@pytest.mark.parametrize("operator", [ExternalPythonOperator, BranchExternalPythonOperator, PythonVirtualenvOperator])
def test_a_function_that_another_python_runs_cannot_be_given_the_lease(dag: DAG, operator: Any) -> None:
    def wants(lease: Any) -> None: ...
    def does_not(day: str) -> None: ...

    python = {} if operator is PythonVirtualenvOperator else {"python": "python3"}
    with pytest.raises(InvalidSetting, match=r"^python_callable=.*'lease'.*inherited_lease\(\)"):
        exclusive(operator)(task_id="wants", python_callable=wants, **python)
    exclusive(operator)(task_id="brings", python_callable=wants, op_kwargs={"lease": "mine"}, **python)
    task = exclusive(operator)(task_id="does_not", python_callable=does_not, op_kwargs={"day": "x"}, **python)
    task.take_lease("the lease")
    assert task.op_kwargs == {"day": "x"}


@pytest.mark.parametrize("decorator", [exclusive_task, task.exclusive])
def test_a_decorator_that_is_given_a_name_by_position_names_the_argument(decorator: Any) -> None:
    with pytest.raises(InvalidSetting, match=r"^@task.exclusive='backup_daily': .*job_name='backup_daily'"):
        decorator("backup_daily")


@pytest.mark.parametrize("name", ["nightly.sh", "there.sh"])
def test_a_name_that_looks_like_a_file_is_a_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "there.sh").write_text("pg_dump db")
    with DAG("files", schedule=None, template_searchpath=str(tmp_path)) as dag:
        operator = ExclusiveBashOperator(task_id="work", bash_command="there.sh", job_name=name, run_key=name)
    dag.resolve_template_files()
    assert operator.bash_command == "pg_dump db"
    operator.render_template_fields({"ti": None})
    assert (operator.job_name, operator.run_key) == (name, name)
    assert "template_ext" not in vars(operator)
    assert "template_fields" not in vars(operator)


class Named(BaseOperator):
    """With arguments of its own that are called like ours, as of Glue, Batch and Redis operators."""

    template_fields = ("job_name",)

    def __init__(self, *, job_name: str, redis_conn_id: str = "redis_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_name, self.redis_conn_id = job_name, redis_conn_id

    def execute(self, context: Any) -> tuple[str, str]:
        return self.job_name, self.redis_conn_id


def test_an_argument_that_the_operator_has_itself_is_its_own(admitting: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(connections, "open_guard", lambda *names: asked.append(names) or admitting.guard)
    with DAG("any", schedule=None, default_args={"redis_conn_id": "app", "exclusive_redis_conn_id": "locks"}):
        task: Any = exclusive(Named)(
            task_id="work", job_name="remote {{ 1 }}", exclusive_job_name="ours {{ 2 }}", do_xcom_push=False
        )
    assert task.template_fields == ("exclusive_job_name", "run_key", "job_name")
    task.render_template_fields({}, jinja_env=SandboxedEnvironment())
    assert task.execute(context_of(task)) == ("remote 1", "app")
    assert asked == [("locks", None)]
    assert [request.job_name for request in admitting.statuses.requests] == ["ours 2"]


def test_left_out_ours_has_its_default_and_the_operators_its_own() -> None:
    with DAG("any", schedule=None):
        task: Any = exclusive(Named)(task_id="work", job_name="remote")
    assert (task.job_name, task.redis_conn_id) == ("remote", "redis_default")
    assert (task.exclusive_setting("job_name"), task.exclusive_setting("redis_conn_id")) == (None, None)


class CalledAlike(BaseOperator):
    """With names of its own for what we have as well."""

    template_fields = ("text",)
    wait_interval = property(lambda _: "every day")

    def __init__(self, *, text: str, lease: str, own: str, lease_settings: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text, self.lease, self.own, self.lease_settings = text, lease, own, lease_settings
        self._cancelled = self._began = self._lost = "theirs"

    def _tell(self) -> str:
        return f"{self.text}, {self.lease}, {self.own} {self.lease_settings} {self.wait_interval}"

    def execute(self, context: Any) -> tuple[str, set[str]]:
        return self._tell(), {self._cancelled, self._began, self._lost}


def test_names_that_the_operator_has_for_itself_stay_its_own(admitting: World) -> None:
    with DAG("any", schedule=None):
        task: Any = exclusive(CalledAlike)(
            task_id="work",
            text="token {{ lease.token }}",
            lease="two years",
            own="mine",
            lease_settings=7,
            exclusive_wait_interval=60,
            do_xcom_push=False,
        )
    task.render_template_fields({}, jinja_env=SandboxedEnvironment())
    assert task.execute(context_of(task)) == ("token 1, two years, mine 7 every day", {"theirs"})
    assert (task.lease, task.exclusive_setting("wait_interval")) == ("two years", 60)


def test_an_attribute_that_no_class_or_argument_announces_is_not_replaced() -> None:
    class Keeps(BaseOperator):
        def __init__(self, *, conn_id: str, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.redis_conn_id = conn_id

    with (
        DAG("any", schedule=None),
        pytest.raises(InvalidSetting, match=r"^redis_conn_id=None: would replace .*exclusive_redis_conn_id"),
    ):
        exclusive(Keeps)(task_id="work", conn_id="app")


def test_the_lease_is_an_attribute_of_the_task_while_it_runs(admitting: World) -> None:
    class Tells(BaseOperator):
        def execute(self, context: Any) -> Any:
            return self.lease is context["lease"]  # type: ignore[attr-defined]

    with DAG("any", schedule=None):
        task: Any = exclusive(Tells)(task_id="work", do_xcom_push=False)
    assert task.execute(context_of(task))
    assert not hasattr(task, "lease")


def test_what_is_wrong_with_such_an_argument_is_told_under_its_name() -> None:
    with DAG("any", schedule=None):
        with pytest.raises(InvalidSetting, match=r"^exclusive_job_name=''"):
            exclusive(Named)(task_id="work", job_name="remote", exclusive_job_name="")
        with pytest.raises(InvalidSetting, match=r"^exclusive_job_name=''"):
            exclusive(Named).partial(task_id="mapped", exclusive_job_name="")
        exclusive(Named).partial(task_id="rest", exclusive_job_name="a").expand(job_name=["", "b"])
        with pytest.raises(UnknownArgument, match="job_name"):
            exclusive(Named)(task_id="without", exclusive_job_name="a")


def test_a_class_that_passes_on_one_of_our_arguments_takes_no_name_from_us() -> None:
    class Defaults:
        def __init__(self, *, lock_ttl: float = 45, **kwargs: Any) -> None:
            super().__init__(lock_ttl=lock_ttl, **kwargs)

    class Mine(Defaults, ExclusiveBashOperator):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    with DAG("any", schedule=None):
        task: Any = Mine(task_id="work", bash_command="true")
    assert (task.exclusive_lease_settings.ttl, task.exclusive_names) == (45, {})


def test_a_class_of_ones_own_gets_them_by_the_same_names() -> None:
    class Mine(ExclusiveMixin, Named):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(exclusive_job_name="ours", **kwargs)

    with DAG("any", schedule=None):
        task: Any = Mine(task_id="work", job_name="remote")
    assert (task.job_name, task.exclusive_setting("job_name")) == ("remote", "ours")


class Works(BaseOperator):
    def execute(self, context: Any) -> None: ...

    def on_kill(self) -> None: ...


@pytest.mark.parametrize(
    ("bases", "body", "names"),
    [
        ((ExclusiveMixin, BaseOperator), {"execute": Works.execute}, "execute='Mine.execute'"),
        ((ExclusiveBashOperator,), {"execute": Works.execute}, "execute='Mine.execute'"),
        ((ExclusivePythonOperator,), {"on_kill": Works.on_kill}, "on_kill='Mine.on_kill'"),
        ((Works, ExclusiveMixin), {}, "execute='Works.execute'"),
        ((EmptyOperator, ExclusiveMixin), {}, "execute='EmptyOperator.execute'"),
    ],
)
def test_a_class_whose_work_would_not_ask_for_the_lease_is_refused(
    bases: tuple[type, ...], body: dict[str, Any], names: str
) -> None:
    with pytest.raises(InvalidSetting, match=rf"^{names}: .*class Y\(ExclusiveMixin, X\), or exclusive\(X\)"):
        type(BaseOperator)("Mine", bases, body)


def test_a_class_whose_work_comes_after_ours_is_guarded(admitting: World) -> None:
    class Mine(ExclusiveMixin, Works): ...

    class Further(Mine): ...

    with DAG("any", schedule=None):
        Further(task_id="work", do_xcom_push=False).execute(context_of(SimpleNamespace(task_id="work")))
    assert [outcome for outcome, *_ in admitting.statuses.finished] == ["success"]
