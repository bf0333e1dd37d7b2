"""The keeper's own small connection to Redis: one script, one reply.

A keeper lives beside every running job, so its memory counts: redis-py as a whole takes 40 MB, its connection alone 17.
Only behind Sentinel and in a cluster the whole is needed.
"""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec
from typing import Any

from airflow_exclusive.core.errors import StoreUnavailable
from airflow_exclusive.stores.redis.address import Address
from airflow_exclusive.stores.redis.scripts import WAKE_UP_LASTS_MS, lock_key, lua, milliseconds, wake_key


def _redis_connection() -> Any:
    """`redis.connection` without what `redis/__init__` loads besides; the whole package where that doesn't work."""
    if "redis" not in sys.modules:
        spec = find_spec("redis")
        bare = types.ModuleType("redis")
        bare.__path__ = list(spec.submodule_search_locations or []) if spec else []
        bare.__version__ = ""  # type: ignore[attr-defined]
        telemetry = sys.modules.get("opentelemetry")
        sys.modules["redis"], sys.modules["opentelemetry"] = bare, None  # type: ignore[assignment]
        try:
            import redis.connection
        except Exception:
            for name in [name for name in sys.modules if name == "redis" or name.startswith("redis.")]:
                del sys.modules[name]
        finally:
            del sys.modules["opentelemetry"]
            if telemetry is not None:
                sys.modules["opentelemetry"] = telemetry
    import redis.connection

    return redis.connection


class KeptLock:
    """The lock of one job for one owner. Not thread-safe. Raises `StoreUnavailable`."""

    def __init__(self, url: str, job_name: str, owner: str, *, timeout: float) -> None:
        self._url, self._job_name, self._owner, self._timeout = url, job_name, owner, timeout
        self._address = Address.parse(url)
        self._connection: Any = None

    def load(self) -> None:
        """Load what a request needs, without making one."""
        lua("acquire")
        if self._address.kind:
            import redis  # noqa: F401
        else:
            _redis_connection()

    def renew(self, ttl: float) -> bool:
        """Keep the lock, or put it back if Redis lost it and nobody has it. False: somebody else has it."""
        return bool(self._eval("acquire", [lock_key(self._job_name)], [self._owner, milliseconds(ttl)])[0])

    def release(self) -> None:
        self._eval("release", [lock_key(self._job_name), wake_key(self._job_name)], [self._owner, 0, WAKE_UP_LASTS_MS])

    def _eval(self, script: str, keys: list[str], args: list[Any]) -> Any:
        command = ("EVAL", lua(script), len(keys), *keys, *args)
        try:
            connection = self._connected()
            if self._address.kind:
                return connection.execute_command(*command)
            connection.send_command(*command)
            return connection.read_response()
        except Exception as error:
            if self._connection is not None:
                getattr(self._connection, "close" if self._address.kind else "disconnect")()
                self._connection = None
            raise StoreUnavailable(f"Redis: {error}") from error

    def _connected(self) -> Any:
        if self._connection is None and self._address.kind:
            # Finding a master, or the node that has a key, is worth the memory of the whole of redis-py.
            self._connection = self._address.connect(timeout=self._timeout, tries_again=1)
        elif self._connection is None:
            module = _redis_connection()
            options = module.parse_url(self._url)
            kind = options.pop("connection_class", module.Connection)
            options.setdefault("socket_timeout", self._timeout)
            options.setdefault("socket_connect_timeout", self._timeout)
            self._connection = kind(**options)
            self._connection.connect()
        return self._connection
