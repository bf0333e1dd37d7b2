"""Addresses for messages: where, but never the password."""

from __future__ import annotations

import re

# Up to the last "@", and to the end where it may stand in a password: people forget to escape one, or to quote a space,
# and a message that shows half a password is no use to anybody.
_LOGIN = re.compile(
    r"^([\w+.-]+://[^:@]*|(?!\s*\w+\s*=)[^:@]*):(?!//)(?:.*password\s*=.*@.*|.*(@))", re.IGNORECASE | re.DOTALL
)
_VALUE = r"(?:'(?:[^'\\]|\\.)*'|(?!')(?:[^\s\\]|\\.)+)"
_PLACE = rf"(?:\s+(?:host|hostaddr|port|user|dbname|sslmode)\s*=\s*{_VALUE})*\s*\Z"
_SETTING = re.compile(rf"(password\s*=\s*)(?:{_VALUE}(?={_PLACE})|.*)", re.IGNORECASE | re.DOTALL)


def redacted(address: str) -> str:
    """
    >>> redacted("redis://me:secret@host:6379/0")
    'redis://me:***@host:6379/0'
    """
    return _SETTING.sub(r"\1***", _LOGIN.sub(lambda found: f"{found[1]}:***{found[2] or ''}", address))
