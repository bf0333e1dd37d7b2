"""The adapters to Airflow, 2.11 and 3.x alike: they translate, the rules are in `core`.

Only this subpackage imports Airflow, and only through `compat.py`. Nothing here imports redis or psycopg before a task
runs: DAG files are parsed every few seconds.
"""
