"""Who a node is: never taken for another one, whatever the two have in common."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_exclusive import node

_TELL = "from airflow_exclusive.node import node_id; print(node_id(), flush=True)"
_RENAMED = r"import ctypes; ctypes.CDLL(None).prctl(15, b'na\xc3', 0, 0, 0)"
"""PR_SET_NAME. Linux cuts names after 15 bytes, also in the middle of a letter."""
_TELL_AND_FORK = f"import os\n{_TELL}\nif os.fork():\n    os.wait()\nelse:\n    print(node_id(), flush=True)"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Who this process is, is found out once: here, for each test."""
    monkeypatch.delenv("EXCLUSIVE_NODE", raising=False)
    node._node_id.cache_clear()
    yield
    node._node_id.cache_clear()


def told_by(program: str, **environment: str) -> list[str]:
    """The ids that a process of its own prints."""
    path = os.pathsep.join(path for path in sys.path if path)
    env = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_node_is_called_after_its_host() -> None:
    assert node.node_id().startswith(f"{socket.gethostname()}/")


def test_a_node_can_be_given_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCLUSIVE_NODE", "pod-0")
    name, boot, process = node.node_id().split("/")
    assert name == "pod-0"
    assert Path("/proc/sys/kernel/random/boot_id").read_text().startswith(boot)
    assert process.startswith(f"{os.getpid()}-")


def test_an_empty_name_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCLUSIVE_NODE", "")
    assert node.node_id().startswith(f"{socket.gethostname()}/")


def test_a_process_is_the_same_node_all_its_life() -> None:
    first = node.node_id()
    node._node_id.cache_clear()
    assert node.node_id() == first


def test_two_processes_of_one_name_are_two_nodes() -> None:
    (first,), (second,) = told_by(_TELL, EXCLUSIVE_NODE="pod-0"), told_by(_TELL, EXCLUSIVE_NODE="pod-0")
    assert first != second
    assert first.split("/")[:2] == second.split("/")[:2]


def test_a_process_whose_name_is_no_text_is_the_node_that_it_was_before() -> None:
    forget = "from airflow_exclusive import node; node._node_id.cache_clear()"
    before, after = told_by("\n".join([_TELL, _RENAMED, forget, _TELL]))
    assert before == after


def test_a_fork_is_a_node_of_its_own() -> None:
    parent, child = told_by(_TELL_AND_FORK)
    assert parent != child


@pytest.mark.parametrize("what", ["_boot", "_process_start"])
def test_a_restarted_pod_of_the_same_name_and_pid_is_another_node(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """In a container the pid is mostly 1; on another machine the boot differs, on the same one the process' start."""
    monkeypatch.setenv("EXCLUSIVE_NODE", "pod-0")
    first = node.node_id()
    monkeypatch.setattr(node, what, lambda *_: "later")
    node._node_id.cache_clear()
    assert node.node_id() != first


def test_where_proc_tells_nothing_a_node_is_still_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> str:
        raise FileNotFoundError

    for reading in ("read_text", "read_bytes"):
        monkeypatch.setattr(Path, reading, nothing)
    first = node.node_id()
    assert first.count("/") == 2
    assert node.node_id() == first
    node._node_id.cache_clear()  # as another process would
    assert node.node_id() != first


def test_the_clock_is_one_for_all_processes_of_the_node() -> None:
    before = node.clock()
    (told,) = told_by("from airflow_exclusive.node import clock; print(clock())")
    assert before <= float(told) <= node.clock()
