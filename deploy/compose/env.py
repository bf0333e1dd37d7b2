"""`make env`: writes `.env` from `.env.example`, with a random value for each secret. Needs Python alone."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def assignments(text: str) -> dict[str, str]:
    """The variables of a `.env` file as they are written."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def filled_in(example: str, known: Mapping[str, str]) -> Iterator[str]:
    """The lines of `example` with what is known already, and a random value where it has none."""
    for line in example.splitlines():
        name, equals, value = line.partition("=")
        if line.startswith("#") or not equals:
            yield line
        else:
            yield f"{name}={known.get(name) or value or _secret(name)}"


def _secret(name: str) -> str:
    if name.endswith("FERNET_KEY"):
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_hex(32)  # hexadecimal: good in a URL and in a shell, as it is


def write(target: Path, *, example: Path = PROJECT / ".env.example") -> list[str]:
    """Write `target`, keeping the values that it has; give the names of those that are new."""
    known = assignments(target.read_text()) if target.exists() else {}
    wanted = example.read_text()
    names = assignments(wanted)
    others = [f"{name}={value}" for name, value in known.items() if name not in names]
    partial = target.with_name(f"{target.name}.new")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join([*filled_in(wanted, known), *others]) + "\n")
    partial.replace(target)  # whole or not at all
    return [name for name in names if not known.get(name)]


if __name__ == "__main__":
    new = write(PROJECT / ".env")
    print(f".env: {len(new)} values added; the rest is as it was" if new else ".env has all that is needed")
    print("The web pages' user is admin, with ADMIN_PASSWORD from .env.")
