"""What a signal handler may have to wait for in vain."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context


def done_beside(call: Callable[[], object], *, within: float) -> Exception | None:
    """Call it in a thread of its own, wait for it that many seconds at most, and give what it raised.

    A handler interrupts the main thread anywhere, also where it holds a lock. Whatever needs that lock would wait for
    ever in the handler; here it gets it once the main thread has moved on.
    """
    raised: list[Exception] = []

    def work() -> None:
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=copy_context().run, args=[work], daemon=True)
    thread.start()
    thread.join(within)
    return raised[0] if raised else None
