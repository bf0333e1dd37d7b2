"""Places at which a job can be made to wait from outside: the demo and the tests break something just there."""

from __future__ import annotations

import os
import time
from pathlib import Path

FOLDER = "EXCLUSIVE_CHECKPOINTS"
_LOOK_EVERY = 0.05


def reach(point: str, tick: str) -> None:
    """Wait here while somebody has ordered it; otherwise, and always where no folder is named, do nothing.

    The order is a file `<tick>.<point>` in the folder that EXCLUSIVE_CHECKPOINTS names. Whoever comes by writes its pid
    to `<tick>.<point>.reached` and waits until the order is gone.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    order = Path(folder) / f"{tick}.{point}"
    if not order.exists():
        return
    reached = order.with_name(f"{order.name}.reached")
    partial = reached.with_name(f"{reached.name}.{os.getpid()}")
    partial.write_text(str(os.getpid()))
    partial.replace(reached)  # whole or not at all
    while order.exists():
        time.sleep(_LOOK_EVERY)
