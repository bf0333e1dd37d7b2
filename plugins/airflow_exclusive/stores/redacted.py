"""Addresses for messages: where, but never the password."""

from __future__ import annotations

import re

_URL_PASSWORD = re.compile(r"(?<=://)([^:@/\s]*):[^@/\s]*@")
_DSN_PASSWORD = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)


def redacted(address: str) -> str:
    """
    >>> redacted("redis://me:secret@host:6379/0")
    'redis://me:***@host:6379/0'
    """
    return _DSN_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", address))
