"""Which steps of the protocol the tests disturb: what they are made from, so that none can be listed and left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import pytest

from tests.support.proxy import DUPLICATED, FAULTS, Matches

T = TypeVar("T", bound=Callable[..., None])

DISTURBED: list[Matches] = []
"""By all the tests of the modules that are loaded."""


def disturbed(
    steps: Mapping[str, Matches], *names: str, kinds: Sequence[str] = FAULTS, sent_once: Sequence[str] = ()
) -> Callable[[T], T]:
    """The test meets each `kind` of fault at each `step`: those named, or all.

    sent_once: steps that nobody sends again, and no connection repeats by itself.
    """
    chosen = names or tuple(steps)
    DISTURBED.extend(steps[name] for name in chosen)
    cases = [(step, kind) for step in chosen for kind in kinds if kind != DUPLICATED or step not in sent_once]

    def parametrized(test: T) -> T:
        return pytest.mark.parametrize(("step", "kind"), cases)(test)

    return parametrized
