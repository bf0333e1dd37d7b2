"""Addresses for messages: where, but never the password."""

from __future__ import annotations

import re

# Up to the last "@": people forget to escape one, and a message that shows half a password is no use to anybody.
_URL_PASSWORD = re.compile(r"(?<=://)([^:@/\s]*):\S*@")
_QUERY_PASSWORD = re.compile(r"(?<=[?&])(\w*password=)[^&\s]*", re.IGNORECASE)
_DSN_PASSWORD = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)


def redacted(address: str) -> str:
    """
    >>> redacted("redis://me:secret@host:6379/0")
    'redis://me:***@host:6379/0'
    """
    if "://" in address:
        return _QUERY_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", address))
    return _DSN_PASSWORD.sub(r"\1***", address)
