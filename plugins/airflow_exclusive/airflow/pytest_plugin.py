"""For the tests of those who write DAGs: loaded by pytest wherever the package is installed.

def test_guarded_tasks(exclusive_findings):
    assert exclusive_findings("dags") == []
    assert exclusive_findings("dags", executor="SequentialExecutor") == []      # for another deployment of these DAGs
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from airflow_exclusive.core.findings import Finding


class FindingsIn(Protocol):
    """What is wrong with the DAGs of a folder: see `dag_checks.findings_in`."""

    def __call__(
        self, folder: str | Path, *, executor: str | None = None, triggerer: bool = False
    ) -> list[Finding]: ...


@pytest.fixture(scope="session")
def exclusive_findings() -> FindingsIn:
    """What is wrong with the DAGs of a folder, guarded tasks above all: `exclusive_findings(folder)`.

    executor: that of the deployment in question; left out, the configured one.
    triggerer: whether a deployment with the SequentialExecutor has a triggerer.
    """

    def findings_in(folder: str | Path, *, executor: str | None = None, triggerer: bool = False) -> list[Finding]:
        from airflow_exclusive.airflow import dag_checks

        return dag_checks.findings_in(folder, executor=executor, triggerer=triggerer)

    return findings_in
