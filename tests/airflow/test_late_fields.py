"""`{{ lease.token }}` and its like: left standing while Airflow renders, filled in after admission."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator, ObjectStoragePath
from jinja2.sandbox import SandboxedEnvironment

from airflow_exclusive import Admitted, exclusive
from airflow_exclusive.airflow.late_fields import LeaseInTemplate, filled_in
from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting
from airflow_exclusive.core.lease import Lease
from tests.airflow.context import context_of
from tests.support.fakes import TICK, World, claim_of, world


class Templated(BaseOperator):
    template_fields = ("text",)

    def __init__(self, *, text: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text = text


@pytest.fixture
def lease() -> Lease:
    made = world()
    made.statuses.claim = lambda request, _: claim_of(request, fencing_token=42, generation=3, attempt=2)  # type: ignore[method-assign, assignment]
    admission = made.guard.admit("backup {daily}", run_key=TICK)
    assert isinstance(admission, Admitted)
    return admission.lease


def rendered(text: Any, **variables: Any) -> Any:
    with DAG("any", schedule=None):
        operator: Any = exclusive(Templated)(task_id="work", text=text)
    operator.render_template_fields(variables, jinja_env=SandboxedEnvironment())
    return operator.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token", "42"),
        ("generation", "3"),
        ("attempt", "2"),
        ("run_key", TICK),
        ("job_name", "backup {daily}"),
    ],
)
def test_each_of_the_leases_names_is_filled_in(lease: Lease, name: str, value: str) -> None:
    assert filled_in(rendered(f"<{{{{ lease.{name} }}}}>"), lease) == f"<{value}>"


def test_the_owner_is_filled_in(lease: Lease) -> None:
    assert filled_in(rendered("{{ lease.owner }}"), lease) == lease.owner


def test_spaces_in_the_template_do_not_matter(lease: Lease) -> None:
    assert filled_in(rendered("{{lease.token}} {{-   lease.token   }}"), lease) == "4242"


def test_the_rest_of_the_template_is_rendered_as_ever(lease: Lease) -> None:
    assert filled_in(rendered("{{ day }}/{{ lease.token }}", day="monday"), lease) == "monday/42"


def test_a_context_with_the_lease_in_it_can_be_copied_and_asked_what_it_can(lease: Lease) -> None:
    copied = copy.deepcopy({"lease": LeaseInTemplate()})["lease"]
    assert not hasattr(copied, "__html__")
    assert filled_in(str(copied.token), lease) == "42"


@pytest.mark.parametrize(
    "text", ["{{ lease.tokn }}", "{{ lease.finish() }}", "{{ lease['x'] }}", "{{ lease._keeper }}"]
)
def test_what_the_lease_does_not_have_is_an_error_that_names_what_it_has(text: str) -> None:
    with pytest.raises(InvalidSetting, match="must be one of token, owner, run_key, job_name, generation, attempt"):
        rendered(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ lease.run_key[:10] }}",
        "{{ lease.run_key.replace(':', '') }}",
        "{{ lease.token | int }}",
        "{{ lease.token|upper }}",
        "{{ lease.token + 1 }}",
        "{{ 1 + lease.token }}",
        "{{ '%d' % lease.token }}",
        "{{ lease.run_key | length }}",
        "{{ 'first' if lease.attempt == 1 else 'again' }}",
        "{{ 'first' if lease.attempt > 1 else 'again' }}",
        "{% if lease.token %}yes{% endif %}",
        "{% if lease.run_key | lower == 'x' %}yes{% endif %}",
        "{% for letter in lease.run_key %}{{ letter }}{% endfor %}",
        "{{ '2013' in lease.run_key }}",
        {"any": ["{{ lease.job_name|title }}"]},
    ],
)
def test_nothing_can_be_made_of_what_is_not_known_yet(text: Any) -> None:
    with pytest.raises((ExclusiveError, TypeError), match=r"is known only once the task is admitted|%d format"):
        rendered(text)


def test_it_may_be_written_down_beside_others(lease: Lease) -> None:
    text = "{{ 'a' ~ lease.token }} {{ '%s' % lease.token }} {{ day | upper }}; cat {{ lease.token }} | sort"
    assert filled_in(rendered(text, day="monday"), lease) == "a42 42 MONDAY; cat 42 | sort"


@pytest.mark.parametrize("text", ["{{ [lease.token, day] }}", "{{ {'token': lease.token} | string }}"])
def test_within_a_list_or_dict_it_is_text(lease: Lease, text: str) -> None:
    assert "'42'" in filled_in(rendered(text, day="monday"), lease)


def test_another_lease_is_not_ours(lease: Lease) -> None:
    text = "{{ params.lease.token | upper }} {% for lease in leases %}{{ lease.name | upper }}{% endfor %}"
    assert filled_in(rendered(text, params={"lease": {"token": "a"}}, leases=[{"name": "b"}]), lease) == "A B"


def test_native_rendering_keeps_its_place(lease: Lease) -> None:
    with DAG("any", schedule=None, render_template_as_native_obj=True) as dag:
        operator: Any = exclusive(Templated)(task_id="work", text=["{{ lease.token }}", "{{ 7 }}"])
    operator.render_template_fields({}, jinja_env=dag.get_template_env())
    assert filled_in(operator.text, lease) == ["42", 7]


class RendersAgain(Templated):
    """As operators do that get a template from a connection."""

    def execute(self, context: Any) -> None:
        self.text = "{{ lease.token }} {{ lease.run_key[:4] }}"
        self.render_template_fields(context, jinja_env=SandboxedEnvironment())
        context["lease"].ensure_held()


def test_what_is_rendered_under_the_lease_has_its_values(admitting: World) -> None:
    with DAG("any", schedule=None):
        task: Any = exclusive(RendersAgain)(task_id="work", text="", run_key=TICK, do_xcom_push=False)
    task.execute(context_of(task))
    assert task.text == "1 2013"


def test_nested_values_are_looked_through(lease: Lease) -> None:
    nested = {"a": ["{{ lease.token }}", ("{{ lease.token }}", 7)], "{{ lease.token }}": {"b": None}}
    assert filled_in(rendered(nested), lease) == {"a": ["42", ("42", 7)], "42": {"b": None}}


def test_what_came_out_of_the_first_rendering_is_never_rendered_again(lease: Lease) -> None:
    mischief = "{{ 7 * 7 }} {% raw %} {{ lease.claim }} {{lease.token}} {{  lease.token }}"
    assert filled_in(rendered("{{ given }}", given=mischief), lease) == mischief


@pytest.mark.parametrize("value", [None, 7, b"{{ lease.token }}", object(), LeaseInTemplate])
def test_what_is_no_text_is_left_alone(lease: Lease, value: object) -> None:
    assert filled_in(value, lease) is value


def test_a_template_that_knows_no_lease_is_left_as_it_is(lease: Lease) -> None:
    assert filled_in(rendered("{{ day }}", day="monday"), lease) == "monday"


class Variable:
    """As a container's environment has them."""

    template_fields = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Pair(NamedTuple):
    first: Any
    second: Any


class Telling(Templated):
    def execute(self, context: Any) -> Any:
        return told(self.text)


def told(text: Any) -> Any:
    if isinstance(text, Variable):
        return told(text.value)
    if isinstance(text, Pair):
        return Pair(told(text.first), told(text.second))
    return [told(each) for each in text] if isinstance(text, list) else str(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ([Variable("<{{ lease.token }}>"), Variable([Variable("{{ lease.token }}")])], ["<1>", ["1"]]),
        (Pair("{{ lease.token }}", [Variable("{{ lease.token }}"), 7]), Pair("1", ["1", "7"])),
        (ObjectStoragePath("file:///any/{{ lease.token }}"), "file:///any/1"),
    ],
)
def test_it_is_filled_in_wherever_airflow_renders(admitting: World, text: Any, expected: Any) -> None:
    with DAG("any", schedule=None):
        task: Any = exclusive(Telling)(task_id="work", text=text, do_xcom_push=False)
    task.render_template_fields({}, jinja_env=SandboxedEnvironment())
    assert task.execute(context_of(task)) == expected


def test_an_object_that_tasks_share_gives_each_its_own_lease(admitting: World) -> None:
    shared = [Variable("{{ lease.job_name }}")]
    with DAG("any", schedule=None):
        tasks: list[Any] = [
            exclusive(Telling)(task_id=name, text=shared, job_name=name, do_xcom_push=False) for name in ("a", "b")
        ]
    for task in tasks:
        task.render_template_fields({}, jinja_env=SandboxedEnvironment())
        assert task.execute(context_of(task)) == [task.job_name]
        admitting.statuses.running = None


def test_a_filter_on_it_within_an_object_is_refused_as_well() -> None:
    for text in ([Variable("{{ lease.token | upper }}")], Pair("{{ lease.token | upper }}", 7)):
        with pytest.raises(ExclusiveError, match="is known only once the task is admitted"):
            rendered(text)


class Stubborn:
    """Its field isn't what it is set to."""

    template_fields = ("value",)

    def __init__(self, value: str) -> None:
        self._value = value

    @property
    def value(self) -> str:
        return self._value

    @value.setter
    def value(self, given: str) -> None: ...


@pytest.mark.parametrize("text", [Stubborn("{{ lease.token }}"), OrderedDict(a=frozenset({"{{ lease.token }}"}))])
def test_where_it_cannot_be_filled_in_the_task_is_refused_before_it_works(admitting: World, text: Any) -> None:
    with DAG("any", schedule=None):
        task: Any = exclusive(Telling)(task_id="work", text=text, do_xcom_push=False)
    task.render_template_fields({}, jinja_env=SandboxedEnvironment())
    with pytest.raises(InvalidSetting, match=r"^(text|value)=.*: {{ lease.token }} can't be filled in there"):
        task.execute(context_of(task))
