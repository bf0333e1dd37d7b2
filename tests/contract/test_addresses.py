"""However badly a password is escaped, no message shows a part of it."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_exclusive.core.errors import ExclusiveError, InvalidSetting
from airflow_exclusive.stores.postgres.address import check_address
from airflow_exclusive.stores.postgres.database import Database
from airflow_exclusive.stores.redis.address import Address
from airflow_exclusive.stores.redis.locks import ErrorsMapped

PART = "S3cr"
BETWEEN = [*"%@:/?#'\"\\=&[],;+ \n\t\0é\udcff", "%4", "%40", "://", "//", "password=", "@h/", "12"]
passwords = st.lists(st.sampled_from(BETWEEN), max_size=4).map(
    lambda between: PART + "".join(f"{b}{PART}" for b in between)
)


def shows_none_of_it(error: BaseException | None) -> bool:
    return PART not in str(error) and PART not in repr(error)


@given(passwords)
@settings(deadline=None)
@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:{}@127.0.0.1:1/x",
        "postgresql://me:12{}@127.0.0.1:1/x?sslmode=disable",
        "postgres//me:{}@127.0.0.1:1/x",
        "postgres:me:{}@127.0.0.1:1/x=y",
        "postgresql://127.0.0.1:1/x?password={}",
        "postgresql://me:{}@[::1]z:1/x",
        "host=127.0.0.1 port=1 password={}",
        "host=127.0.0.1 port=1 password={} user=me",
        "password='{}' host=127.0.0.1 port=1",
        "password='{} host=127.0.0.1 port=1",
    ],
)
def test_of_postgres(address: str, password: str) -> None:
    with pytest.raises(ExclusiveError) as raised:
        Database(address.format(password), retry_for=0.0, connect_timeout=1).run("now", {"now": None})
    assert shows_none_of_it(raised.value)


@given(passwords)
@settings(deadline=None)
@pytest.mark.parametrize(
    "address",
    [
        "redis://me:{}@127.0.0.1:1/0",
        "redis://me:12{}@127.0.0.1:1/0",
        "redis//me:{}@127.0.0.1:1/0",
        "unix://me:{}@/nowhere",
        "redis://127.0.0.1:1/0?password={}",
        "redis+sentinel://me:{}@127.0.0.1:1/main/0",
        "redis+sentinel://127.0.0.1:1/main/0?sentinel_password={}",
        "redis+cluster://me:{}@127.0.0.1:1",
        "redis://me:{}@[::1]z:1/0",
    ],
)
def test_of_redis(address: str, password: str) -> None:
    url = address.format(password)
    with pytest.raises(ExclusiveError) as raised, ErrorsMapped(url):
        Address.parse(url).connect(timeout=1.0, tries_again=0).ping()
    assert shows_none_of_it(raised.value)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@example("p@ss: w/%?#")
def test_what_is_escaped_is_read_as_it_was(password: str) -> None:
    from urllib.parse import quote

    from psycopg.conninfo import conninfo_to_dict

    escaped = quote(password, safe="")
    assert conninfo_to_dict(check_address(f"postgresql://me:{escaped}@h/x"))["password"] == password
    Address.parse(f"redis://me:{escaped}@h/0")


@pytest.mark.parametrize(
    "url", ["postgresql://me:12/34@h/x", "postgresql://me:secret@ret@h/x", "postgresql://h/x?user=a@b"]
)
def test_what_would_be_taken_for_another_server_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match="can't be read as an address"):
        check_address(url)
