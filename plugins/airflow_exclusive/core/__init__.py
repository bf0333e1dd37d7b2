"""Values, rules and the order of the protocol: no I/O, no clock of its own, no Airflow.

Read `guard.py` first: it is the protocol in the order in which it happens. `ports.py` says what it needs from outside.
"""
