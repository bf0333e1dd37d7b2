"""docs/kubernetes.md, as far as it can be checked without a cluster: its YAML's structure and Airflow's settings in it.

The structure is checked by rules written here, not by the API's models: a client of Kubernetes would be thirteen
packages more, and takes no notice of fields that it doesn't know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from airflow_exclusive.cli.commands import cli
from deploy.compose.env import PROJECT
from tests.support.airflow_options import AIRFLOW_VERSION, unknown_settings

PAGE = (PROJECT / "docs" / "kubernetes.md").read_text()
BLOCKS: list[dict[str, Any]] = [
    yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
]
BY_KIND = {block.get("kind", "values"): block for block in BLOCKS}
SECRET, JOB, VALUES, POD = (BY_KIND[kind] for kind in ("Secret", "Job", "values", "Pod"))

WORKER = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]["worker"]

POD_SPEC = {"containers", "restartPolicy", "securityContext", "terminationGracePeriodSeconds"}
CONTAINER = {"args", "env", "image", "name", "resources"}


PODS: list[dict[str, Any]] = [POD["spec"], JOB["spec"]["template"]["spec"]]


def variables() -> Iterator[dict[str, Any]]:
    yield from VALUES["env"]
    for spec in PODS:
        yield from spec["containers"][0]["env"]


def test_the_pages_blocks_are_these() -> None:
    assert len(BLOCKS) == len(BY_KIND) == 4
    for block in (SECRET, JOB, POD):
        assert block["metadata"]["name"]
        assert block["apiVersion"] == {"Job": "batch/v1"}.get(block["kind"], "v1")


@pytest.mark.parametrize("spec", PODS, ids=["pod", "job"])
def test_pods_are_whole(spec: dict[str, Any]) -> None:
    assert set(spec) <= POD_SPEC
    assert spec["restartPolicy"] == "Never"
    (container,) = spec["containers"]
    assert set(container) <= CONTAINER, "a command would do without the image's dumb-init"
    assert container["image"]
    for variable in container["env"]:
        assert set(variable) in ({"name", "value"}, {"name", "valueFrom"})
        assert isinstance(variable.get("value", ""), str)


def test_a_task_runs_in_the_container_that_airflow_looks_for() -> None:
    assert POD["spec"]["containers"][0]["name"] == "base"


def test_a_variable_is_defined_before_it_is_used() -> None:
    defined: set[str] = set()
    for variable in POD["spec"]["containers"][0]["env"]:
        assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= defined
        defined.add(variable["name"])


def test_secrets_that_are_used_are_there() -> None:
    references = [one["valueFrom"]["secretKeyRef"] for one in variables() if "secretKeyRef" in one.get("valueFrom", {})]
    used = {(one["name"], one["key"]) for one in references}
    used |= {(one["secretName"], one["secretKey"]) for one in VALUES["secret"]}
    assert used == {(SECRET["metadata"]["name"], key) for key in SECRET["stringData"]}


def test_connections_are_those_of_docker_compose() -> None:
    wanted = {name for name in WORKER["environment"] if name.startswith("AIRFLOW_CONN_EXCLUSIVE_")}
    assert {one["envName"] for one in VALUES["secret"]} == wanted
    assert wanted <= {one["name"] for one in POD["spec"]["containers"][0]["env"]}


def test_the_hooks_command_is_there() -> None:
    (program, command) = JOB["spec"]["template"]["spec"]["containers"][0]["args"][-1].split()
    assert program == "airflow-exclusive"
    assert command in cli.commands


@pytest.mark.skipif(VALUES["airflowVersion"] != AIRFLOW_VERSION, reason="the page is about another Airflow")
def test_every_setting_is_an_option_of_its_airflow() -> None:
    names = [one["name"] for one in variables()]
    names += [f"AIRFLOW__{section}__{option}" for section, options in VALUES["config"].items() for option in options]
    assert unknown_settings(name.upper() for name in names) == []


def test_images_are_of_the_version_that_the_page_is_about() -> None:
    tag = f"airflow-{VALUES['airflowVersion']}"
    assert VALUES["images"]["airflow"]["tag"] == tag
    assert all(spec["containers"][0]["image"].endswith(f":{tag}") for spec in PODS)
    assert WORKER["image"].endswith(f":{tag}")
