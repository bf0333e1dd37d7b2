"""The address of the truth: a URL or a connection string, as libpq reads them."""

from __future__ import annotations

from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.stores.redacted import redacted

_SCHEMES = ("postgresql://", "postgres://")


def check_address(dsn: str) -> str:
    """Give `dsn` back if libpq can read it, and not otherwise than it is meant. Raises `InvalidSetting`."""
    if not isinstance(dsn, str) or not (dsn.startswith(_SCHEMES) or "=" in dsn):
        raise InvalidSetting("postgres", redacted(str(dsn)), "must be a postgresql:// URL or a libpq connection string")
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(dsn)
        is_readable = "\0" not in dsn and (not dsn.startswith(_SCHEMES) or _has_one_login(dsn))  # NUL ends it for libpq
    except (psycopg.Error, ValueError):
        is_readable = False
    if not is_readable:  # libpq's own words are no use here: they quote what it takes for a host, or all of it
        raise InvalidSetting("postgres", redacted(dsn), _CURE)
    return dsn


def one_server(dsn: str) -> tuple[str, int] | None:
    """Host and port of an address that names one, and only one."""
    from psycopg.conninfo import conninfo_to_dict

    given = conninfo_to_dict(dsn)
    host, port = str(given.get("hostaddr") or given.get("host") or ""), str(given.get("port") or 5432)
    return (host, int(port)) if host and "," not in host and not host.startswith(("/", "@")) else None


_CURE = (
    "can't be read as an address: write % @ : / and spaces in a URL's password as %25 %40 %3A %2F %20, and @ anywhere"
    " else in it as %40; in a connection string set a value with spaces in quotes, \\' for one inside; check its names"
)


def _has_one_login(url: str) -> bool:
    """Otherwise a part of its password is taken for the host, the port or the database."""
    authority, _, rest = url.partition("://")[2].partition("/")
    return authority.count("@") <= 1 and "@" not in rest
