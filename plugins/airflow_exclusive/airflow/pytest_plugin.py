"""For the tests of those who write DAGs: loaded by pytest wherever the package is installed.

def test_guarded_tasks(exclusive_findings):
    assert exclusive_findings("dags") == []
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_exclusive.core.findings import Finding


@pytest.fixture(scope="session")
def exclusive_findings() -> Callable[[str | Path], list[Finding]]:
    """What is wrong with the DAGs of a folder, guarded tasks above all: `exclusive_findings(folder)`."""

    def findings_in(folder: str | Path) -> list[Finding]:
        from airflow_exclusive.airflow import dag_checks

        return dag_checks.findings_in(folder)

    return findings_in
