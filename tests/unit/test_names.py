"""What may name a job, a tick and a step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.core.names import MAX_NAME, check_job_name, check_run_key
from airflow_exclusive.stores.redis.scripts import lock_key, wake_key

CHECKS = pytest.mark.parametrize(("check", "field"), [(check_job_name, "job_name"), (check_run_key, "run_key")])
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=MAX_NAME).filter(str.strip)


@CHECKS
@pytest.mark.parametrize(
    ("value", "cure"),
    [
        ("", "must not be empty"),
        (" \u3000", "must not be empty"),
        ("x" * 251, "has 251 characters; at most 250"),
        ("a\nb", r"control character '\\n'"),
        ("a\x00b", "remove it"),
        ("a\x85b", "remove it"),
        ("a\udcffb", r"undecodable character '\\udcff'; write it in UTF-8"),
        ("\ud83d", r"undecodable character '\\ud83d'"),
        (None, "must be text, not NoneType"),
        (7, "must be text, not int"),
        (b"backup", "must be text, not bytes"),
    ],
)
def test_a_bad_name_is_refused_with_field_value_and_cure(
    check: Callable[[object], str], field: str, value: object, cure: str
) -> None:
    with pytest.raises(InvalidSetting, match=cure) as refused:
        check(value)
    assert (refused.value.field, refused.value.value) == (field, value)
    assert str(refused.value).startswith(f"{field}={value!r}: ")
    assert str(refused.value).encode()


@CHECKS
@pytest.mark.parametrize(
    "value",
    ["backup_daily", 'it\'s "quoted"', "{a}:{b}", "100%", "备份任务", "a b", "x" * 250, "'; DROP TABLE x;--", "🛫"],
)
def test_any_other_text_is_accepted_as_it_is(check: Callable[[object], str], field: str, value: str) -> None:
    assert check(value) == value


@given(NAMES)
@example("}")
@example("{}")
def test_the_keys_of_a_job_have_one_and_the_same_hash_tag(name: str) -> None:
    def tag(key: str) -> str:
        start = key.index("{") + 1
        return key[start : key.index("}", start)]

    assert tag(lock_key(name)) == tag(wake_key(name)) != ""


@given(NAMES, NAMES)
@example("a}", "a%7D")
@example("a", "a}:wake")
@example("%7B", "{")
def test_two_names_never_share_a_key(one: str, other: str) -> None:
    keys = {lock_key(one), wake_key(one), lock_key(other), wake_key(other)}
    assert len(keys) == (2 if one == other else 4)


def test_the_lock_of_a_plain_name_is_easy_to_find_by_hand() -> None:
    assert lock_key("backup_daily") == "lock:job:{backup_daily}"
