"""What the sample DAGs do. `dags/` only wires it; the package `airflow_exclusive` never imports it."""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Where the scripts and SQL files are."""
