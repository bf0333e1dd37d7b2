"""How a guarded task of the acceptance tests meets the test: outside the files with DAGs, since to import one of those
would make its DAGs a second time.

An attempt writes `<token>.started` when it begins to work, keeps a diary while it waits for the file `go`, commits its
effect and writes `<token>.finished`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook

from tests.support.diary import BEAT, Diary


def begin(folder: str, lease: Any) -> Diary:
    place, diary = Path(folder), Diary(Path(folder), lease.token)
    note = {
        "pid": os.getpid(),
        "supervisor": os.getppid(),
        "token": lease.token,
        "generation": lease.generation,
        "run_key": lease.run_key,
    }
    diary.beat()
    partial = place / f"{lease.token}.new"
    partial.write_text(json.dumps(note))
    partial.rename(place / f"{lease.token}.started")
    return diary


def meet(folder: str, lease: Any) -> str:
    import psycopg

    place = Path(folder)
    # Asked for now, since an orphan can't ask Airflow any more.
    warehouse = BaseHook.get_connection("warehouse")
    diary = begin(folder, lease)
    while not (place / "go").exists():
        diary.beat()
        time.sleep(BEAT)
    address = {"host": warehouse.host, "port": warehouse.port, "user": warehouse.login, "dbname": warehouse.schema}
    with psycopg.connect(**address) as connection, lease.transaction(connection) as tx:
        tx.execute(
            "INSERT INTO effects VALUES (%(job)s, %(run_key)s, %(token)s)",
            {"job": lease.job_name, "run_key": lease.run_key, "token": lease.token},
        )
    diary.beat()
    (place / f"{lease.token}.finished").touch()
    return f"done with token {lease.token}"
