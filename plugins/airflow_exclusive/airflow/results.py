"""What a task leaves for its own retry.

Airflow takes a task's result after the task has returned, hence after its success is in the ledger, and forgets it
when it tries again. So the success itself keeps it, as JSON, for a retry that only finds that all is done:

    {"returned": text}     what `execute` returned, as Airflow writes an XCom
    {"chose": XCom}        which of the tasks that follow it skipped, where only an XCom tells that
    {"skips": tasks}       the same, where it ended by raising that
    {"missing": why}       there was something that couldn't be kept
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from airflow_exclusive.airflow.compat import SKIPS_WHAT_FOLLOWS, AirflowFailException, Context

MOST = 64 * 1024
"""Characters; the ledger is no store for data."""


class ResultMissing(AirflowFailException):
    """The work is done, but what it returned is lost. Trying again wouldn't find it, so Airflow isn't to."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"an earlier attempt of this task instance did it, but there is nothing to hand over: {why}. Clear the task"
            " to have it run again (as a new generation of the tick); or, where nobody needs what it returned, mark it"
            " as a success"
        )


def left_behind(task: Any, context: Context, result: Any) -> str | None:
    """What the success of a task that returned `result` is to keep: None where Airflow would be given nothing."""
    from airflow_exclusive.airflow.compat_xcom import as_text, choice_of

    returned = result if getattr(task, "do_xcom_push", True) else None
    left: dict[str, Any] = {}
    try:
        if returned is not None:
            left["returned"] = as_text(returned)
        if choice := choice_of(task, context["ti"]):
            left["chose"] = choice
        kept = json.dumps(left) if left else None
    except Exception as error:
        return _missing(task, f"its result, of type {type(result).__name__}, can't be written as JSON ({error})")
    if kept and len(kept) > MOST:
        size = f"{len(kept)} characters as JSON, more than {MOST}"
        return _missing(task, f"its result, of type {type(result).__name__}, had {size}")
    return kept


def skips_left_behind(tasks: Any) -> str:
    """The same for a task that ended by raising which tasks are to be skipped: ids, or pairs with a map index."""
    return json.dumps({"skips": tasks if isinstance(tasks, list) else [tasks]})


def hand_over(kept: str | None, context: Context) -> Any:
    """Return, raise and push what an earlier try's success has kept. Raises `ResultMissing` where it couldn't."""
    from airflow_exclusive.airflow.compat_xcom import CHOICE_KEY, from_text

    left: dict[str, Any] = json.loads(kept) if kept else {}
    if why := left.get("missing"):
        raise ResultMissing(why)
    skips = [tuple(task) if isinstance(task, list) else task for task in left.get("skips", ())]
    if choice := left.get("chose") or (skips and {"skipped": _ids(skips)}):
        context["ti"].xcom_push(key=CHOICE_KEY, value=choice)
    for skipping in SKIPS_WHAT_FOLLOWS if skips else ():
        raise skipping(tasks=skips)
    try:
        return from_text(left["returned"]) if "returned" in left else None
    except Exception as error:
        raise ResultMissing(f"its result can't be read ({error})") from error


def _ids(tasks: Sequence[Any]) -> list[str]:
    return [task if isinstance(task, str) else task[0] for task in tasks]


def _missing(task: Any, why: str) -> str:
    task.log.warning("%s: it isn't kept, so should Airflow not see this try succeed, the retry will fail", why)
    return json.dumps({"missing": why[:1000]})
