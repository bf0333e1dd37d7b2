"""`{{ lease.token }}` and its like: left standing while Airflow renders, filled in after admission."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator
from jinja2.sandbox import SandboxedEnvironment

from airflow_exclusive import Admitted, exclusive
from airflow_exclusive.airflow.late_fields import LeaseInTemplate, filled_in
from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.core.lease import Lease
from tests.support.fakes import TICK, claim_of, world


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


@pytest.mark.parametrize(
    "text", ["{{ lease.tokn }}", "{{ lease.finish() }}", "{{ lease['x'] }}", "{{ lease._keeper }}"]
)
def test_what_the_lease_does_not_have_is_an_error_that_names_what_it_has(text: str) -> None:
    with pytest.raises(InvalidSetting, match="must be one of token, owner, run_key, job_name, generation, attempt"):
        rendered(text)


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
