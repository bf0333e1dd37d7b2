"""The sample DAGs are whole, say what they are for, and do nothing before they run."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded.release import PROJECT
from tests.airflow.interpreter import told_by

DAGS = PROJECT / "dags"
NAMES = sorted(str(path.relative_to(DAGS)) for path in DAGS.rglob("*.py"))
MODULES = sorted(
    ".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in (PROJECT / "include").rglob("*.py")
)
PAGES = [page for page in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")] if "```python" in page.read_text()]

BAG = """
import json, sys
connected = []
sys.addaudithook(lambda event, args: connected.append(str(args[1])) if event == "socket.connect" else None)
try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:
    from airflow.models import DagBag
bag = DagBag(sys.argv[1])
print(json.dumps({"errors": bag.import_errors, "connected": connected, "dags": {dag.dag_id: {
    "file": dag.fileloc,
    "tags": sorted(dag.tags),
    "doc_md": dag.doc_md,
    "catchup": dag.catchup,
    "owners": sorted({task.owner for task in dag.tasks}),
} for dag in bag.dags.values()}}))
"""
# Whatever a module reaches out for when it is imported: other files, other programs, other machines.
INPUT_OUTPUT = """
import importlib, json, os, sys
reached, watching = [], False
NAMED = ("socket.", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "sqlite3.connect")

def watch(event, args):
    if not watching:
        return
    if event == "open" and isinstance(args[0], int):
        return  # a descriptor that is open already, such as that of the bytecode being saved
    if event == "open" and str(args[0]).endswith((".py", ".pyc")) or "__pycache__" in str(args[:1]):
        return
    if event == "open" or event.startswith(NAMED):
        reached.append([event, str(args[:1])])

import psycopg  # brings its own library; that is read once, by whoever comes first
sys.addaudithook(watch)
told = {}
for name in sys.argv[1:]:
    reached, watching = [], True
    importlib.import_module(name)
    watching = False
    told[name] = reached
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def bag() -> Any:
    return told_by(
        BAG,
        str(DAGS),
        env={"PYTHONPATH": str(PROJECT), "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins")},
    )


def test_all_are_imported_without_an_error(bag: Any) -> None:
    assert bag["errors"] == {}


@pytest.mark.parametrize("name", NAMES)
def test_each_file_has_a_dag(bag: Any, name: str) -> None:
    assert str(DAGS / name) in {dag["file"] for dag in bag["dags"].values()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_in_the_documentation_are_python_and_their_dags_are_made(page: Path) -> None:
    for block in re.findall(r"^ *```python\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE):
        example = compile(textwrap.dedent(block), page, "exec", dont_inherit=True)
        if "airflow." in block:
            exec(example, {})


def test_each_dag_has_tags_and_a_page_that_begins_with_a_headline(bag: Any) -> None:
    assert bag["dags"]
    for dag_id, dag in bag["dags"].items():
        assert {"exclusive", "unguarded"} & set(dag["tags"]), dag_id
        assert (dag["doc_md"] or "").strip().startswith("### "), dag_id


def test_none_is_tied_to_an_owner_or_catches_up_by_itself(bag: Any) -> None:
    assert {dag_id: dag["owners"] for dag_id, dag in bag["dags"].items() if dag["owners"] != ["airflow"]} == {}
    assert [dag_id for dag_id, dag in bag["dags"].items() if dag["catchup"]] == []


def test_nobody_is_connected_to_while_they_are_parsed(bag: Any) -> None:
    assert bag["connected"] == []


def test_what_they_do_is_imported_without_doing_it() -> None:
    assert "include.flights" in MODULES
    told = told_by(INPUT_OUTPUT, *MODULES, env={"PYTHONPATH": str(PROJECT)})
    assert {name: reached for name, reached in told.items() if reached} == {}


def test_the_package_never_imports_them() -> None:
    package = (PROJECT / "plugins").rglob("*.py")
    importing = [path.name for path in package if _imports(path, "include") or _imports(path, "deploy")]
    assert importing == []


def _imports(path: Path, name: str) -> bool:
    lines = (line.strip() for line in path.read_text().splitlines())
    return any(line.startswith((f"import {name}", f"from {name} ", f"from {name}.")) for line in lines)


def test_their_files_hold_no_secrets() -> None:
    text = json.dumps([(DAGS / name).read_text() for name in NAMES])
    assert "password=" not in text
