"""`make demo-celery`: the whole of 2013 on Celery workers that are killed, stopped and given tasks twice.

`workers` is the stage, `faults` is what happens there; all else is shared with `make demo`.
"""
