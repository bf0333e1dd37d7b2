"""`python -m tests.airflow.play CONF DAG_ID…`: run each by `dag.test()` and tell how its task instances ended."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from tests.airflow.dags import played


def main() -> None:
    conf, *dag_ids = sys.argv[1:]
    environment = dict(os.environ)
    told = {dag_id: ended(getattr(played, dag_id).test(run_conf=json.loads(conf))) for dag_id in dag_ids}
    left = [name for name in os.environ if name.startswith("EXCLUSIVE_") and name not in environment]
    print(json.dumps({"runs": told, "left": left}))


def ended(run: Any) -> dict[str, Any]:
    return {"run_id": run.run_id, "tasks": {name(ti): of(ti) for ti in run.get_task_instances()}}


def name(ti: Any) -> str:
    return ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"


def of(ti: Any) -> dict[str, Any]:
    pulled = {"task_ids": ti.task_id, "map_indexes": ti.map_index}
    answer, result = ti.xcom_pull(key="exclusive", **pulled), ti.xcom_pull(**pulled)
    choice = ti.xcom_pull(key="skipmixin_key", **pulled)
    return {"state": str(getattr(ti.state, "value", ti.state)), "answer": answer, "result": result, "choice": choice}


if __name__ == "__main__":
    main()
