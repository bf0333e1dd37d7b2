"""For processes under libfaketime, which fails Python's sleep (clock_nanosleep until a time of the monotonic clock)."""

import select
import time

time.sleep = lambda seconds: select.select([], [], [], seconds) and None  # type: ignore[assignment]
