"""The address of the gate: one server, what a Sentinel says is the master, or a cluster; and a client for it.

    redis://[user:password@]host:6379/0          rediss:// with TLS; unix:///path; options as redis-py reads them
    redis+sentinel://[user:password@]host:26379,host:26379/master-name/0
    redis+cluster://[user:password@]host:6379,host:6379

`rediss+sentinel` and `rediss+cluster` with TLS, to the sentinels as well. `user:password@` is for Redis itself;
sentinels that want a login get it as `?sentinel_username=…&sentinel_password=…`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from airflow_exclusive.core.errors import InvalidSetting
from airflow_exclusive.stores.redacted import redacted

if TYPE_CHECKING:
    import redis
    import redis.asyncio

_PLAIN = ("redis", "rediss", "unix")
_DEFAULT_PORT = {"sentinel": 26379, "cluster": 6379}
LONGEST_BACKOFF = 0.5
"""Seconds between two tries."""
_SCHEMES = [f"{scheme}://" for scheme in (*_PLAIN, "redis+sentinel", "redis+cluster")]


def clients(client: Any) -> list[Any]:
    """What there is to close: the client, and those that ask the Sentinels for it, which it leaves open."""
    asking = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return [client, *(asking.sentinels if asking else [])]


@dataclass(frozen=True)
class Address:
    """`kind` is "", "sentinel" or "cluster". `server` is a URL that redis-py reads: login, database and options."""

    kind: str
    server: str
    nodes: tuple[tuple[str, int], ...] = ()
    master: str = ""
    sentinel_login: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises `InvalidSetting`."""
        if not isinstance(url, str):
            raise InvalidSetting("redis", url, f"must be text, not {type(url).__name__}")
        parts = _split(url)
        scheme, _, kind = parts.scheme.partition("+")
        if scheme not in _PLAIN or kind not in ("", *_DEFAULT_PORT) or (kind and scheme == "unix"):
            raise _invalid(url, "must be a URL that starts with " + ", ".join(_SCHEMES))
        options = dict(parse_qsl(parts.query))
        if "decode_responses" in options:
            raise _invalid(url, "answers are read as bytes: leave decode_responses out")
        if not kind:
            if scheme != "unix" and not parts.path.strip("/").isdecimal() and parts.path.strip("/"):
                raise _invalid(url, f"must end in the number of a database, not {parts.path.strip('/')!r}")
            return cls("", url)
        login, _, hosts = parts.netloc.rpartition("@")
        nodes = tuple(_node(url, text, _DEFAULT_PORT[kind]) for text in hosts.split(","))
        master, database = _path(url, kind, [unquote(part) for part in parts.path.split("/")[1:]])
        sentinel_login = tuple(
            (name, options.pop(f"sentinel_{name}"))
            for name in ("username", "password")
            if f"sentinel_{name}" in options
        )
        # The host is only there for redis-py to have one.
        server = SplitResult(scheme, f"{login}@gate" if login else "gate", f"/{database}", urlencode(options), "")
        return cls(kind, server.geturl(), nodes, master, sentinel_login)

    def one_server(self) -> tuple[str, int] | None:
        """Host and port of an address that names one server."""
        parts = urlsplit(self.server)
        return None if self.kind or parts.scheme == "unix" else (parts.hostname or "localhost", parts.port or 6379)

    def connect(self, *, timeout: float, tries_again: int) -> redis.Redis:
        """A client, or for a cluster what can be used like one. A cluster is asked for its nodes at once."""
        client: redis.Redis = self._client("redis", timeout, tries_again)
        return client

    def connect_async(self, *, timeout: float, tries_again: int) -> redis.asyncio.Redis:
        """The same for an event loop."""
        client: redis.asyncio.Redis = self._client("redis.asyncio", timeout, tries_again)
        return client

    def _client(self, package: str, timeout: float, tries_again: int) -> Any:
        from redis.backoff import ExponentialBackoff

        def load(module: str) -> Any:
            return import_module(f"{package}.{module}")

        common: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
        }
        if urlsplit(self.server).scheme != "unix":
            common["socket_keepalive"] = True
        new_retry = load("retry").Retry
        retry = new_retry(ExponentialBackoff(cap=LONGEST_BACKOFF, base=0.05), tries_again)
        if not self.kind:
            return load("client").Redis.from_url(self.server, retry=retry, **common)
        options = {**self._options(load("connection")), **common}
        if self.kind == "cluster":
            del options["db"]
            nodes = [load("cluster").ClusterNode(host, port) for host, port in self.nodes]
            return load("cluster").RedisCluster(startup_nodes=nodes, retry=retry, **options)
        login = {"username": None, "password": None, **dict(self.sentinel_login)}
        asking = {**{key: value for key, value in options.items() if key != "db"}, **login}
        sentinels = load("sentinel").Sentinel(
            list(self.nodes), sentinel_kwargs={**asking, "retry": new_retry(ExponentialBackoff(), 0)}
        )
        return sentinels.master_for(self.master, retry=retry, **options)

    def _options(self, connection: Any) -> dict[str, Any]:
        options = dict(connection.parse_url(self.server))
        del options["host"]
        if options.pop("connection_class", None) is connection.SSLConnection:
            options["ssl"] = True
        return options


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if "+" not in parts.scheme:
            parts.port  # noqa: B018 - asking is the check
    except ValueError:  # its words quote what it takes for a port, or all of it
        raise _invalid(url, _UNREADABLE) from None
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":  # a part of the password is taken for them
        raise _invalid(url, _UNREADABLE)
    return parts


_UNREADABLE = (
    "is no address: a port is a number, IPv6 stands in [ ]; write % @ : / ? # [ ] in the password as"
    " %25 %40 %3A %2F %3F %23 %5B %5D, and @ behind the host as %40"
)


def _node(url: str, text: str, default: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _invalid(url, f"{text!r} {_UNREADABLE}") from None
    if not host:
        raise _invalid(url, "must name at least one host, and nothing between two commas is none")
    return host, port or default


def _path(url: str, kind: str, parts: list[str]) -> tuple[str, int]:
    master = parts.pop(0) if kind == "sentinel" and parts else ""
    if kind == "sentinel" and not master:
        raise _invalid(url, "must name the master: redis+sentinel://host:26379,host:26379/master-name/0")
    database = parts[0] if parts and parts[0] else "0"
    if len(parts) > 1 or not database.isdecimal():
        raise _invalid(url, f"must end in the number of a database, not {'/'.join(parts)!r}")
    if kind == "cluster" and int(database):
        raise _invalid(url, "a cluster has no database but 0: leave the number out")
    return master, int(database)


def _invalid(url: str, cure: str) -> InvalidSetting:
    return InvalidSetting("redis", redacted(url), cure)
