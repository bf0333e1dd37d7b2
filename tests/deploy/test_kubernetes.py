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
SECRET, JOB, VALUES = (BY_KIND[kind] for kind in ("Secret", "Job", "values"))

WORKER = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]["worker"]

POD_SPEC = {"containers", "restartPolicy"}
CONTAINER = {"args", "env", "image", "name"}

# https://github.com/apache/airflow/blob/helm-chart/1.22.0/chart/values.yaml: those of its keys that are used here
CHART = {
    *("executor", "airflowVersion", "env", "extraEnv", "secret", "config"),
    *("images.airflow.repository", "images.airflow.tag"),
    *("dags.gitSync.enabled", "dags.gitSync.repo", "dags.gitSync.ref", "dags.gitSync.subPath"),
    *("logs.persistence.enabled", "pgbouncer.enabled"),
    *("workers.celery.resources", "workers.celery.terminationGracePeriodSeconds"),
    *("workers.kubernetes.resources", "workers.kubernetes.terminationGracePeriodSeconds"),
}

INIT: dict[str, Any] = JOB["spec"]["template"]["spec"]
EXTRA_ENV: list[dict[str, Any]] = yaml.safe_load(VALUES["extraEnv"])


def variables() -> list[dict[str, Any]]:
    return [*VALUES["env"], *EXTRA_ENV, *INIT["containers"][0]["env"]]


def keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted, down to those that the chart has."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path in CHART or not isinstance(value, dict):
            yield path
        else:
            yield from keys(value, f"{path}.")


def test_the_pages_blocks_are_these() -> None:
    assert len(BLOCKS) == len(BY_KIND) == 3
    for block in (SECRET, JOB):
        assert block["metadata"]["name"]
        assert block["apiVersion"] == {"Job": "batch/v1"}.get(block["kind"], "v1")


def test_the_values_are_keys_of_the_chart() -> None:
    assert sorted(keys(VALUES)) == sorted(CHART)


def test_the_job_is_whole() -> None:
    assert set(INIT) <= POD_SPEC
    assert INIT["restartPolicy"] == "Never"
    (container,) = INIT["containers"]
    assert set(container) <= CONTAINER, "a command would do without the image's dumb-init"
    assert container["image"]


def test_variables_are_as_their_place_takes_them() -> None:
    for variable in variables():
        assert set(variable) in ({"name", "value"}, {"name", "valueFrom"})
        assert isinstance(variable.get("value", ""), str)
    assert all("value" in variable for variable in VALUES["env"]), "the chart's schema has nothing else there"


def test_a_variable_is_defined_before_it_is_used() -> None:
    defined: set[str] = set()
    for variable in EXTRA_ENV:
        assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= defined
        defined.add(variable["name"])


def test_pods_of_tasks_have_what_exclusive_jobs_need() -> None:
    """The rest is in the chart's own template, which therefore must not be replaced."""
    assert {"AIRFLOW__EXCLUSIVE__DEPLOYMENT", "EXCLUSIVE_NODE"} <= {one["name"] for one in variables()}
    assert VALUES["dags"]["gitSync"]["enabled"], "neither the image nor the chart has DAGs"
    for kind in ("celery", "kubernetes"):
        workers = VALUES["workers"][kind]
        assert workers["terminationGracePeriodSeconds"] >= 60
        assert "memory" in workers["resources"]["limits"]
        assert "cpu" not in workers["resources"]["limits"], "a throttled keeper can't renew"


def test_secrets_that_are_used_are_there() -> None:
    references = [one["valueFrom"]["secretKeyRef"] for one in variables() if "secretKeyRef" in one.get("valueFrom", {})]
    used = {(one["name"], one["key"]) for one in references}
    used |= {(one["secretName"], one["secretKey"]) for one in VALUES["secret"]}
    assert used == {(SECRET["metadata"]["name"], key) for key in SECRET["stringData"]}


def test_connections_are_those_of_docker_compose() -> None:
    wanted = {name for name in WORKER["environment"] if name.startswith("AIRFLOW_CONN_EXCLUSIVE_")}
    assert {one["envName"] for one in VALUES["secret"]} == wanted


def test_the_hooks_command_is_there() -> None:
    (program, command) = INIT["containers"][0]["args"][-1].split()
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
    assert INIT["containers"][0]["image"].endswith(f":{tag}")
    assert WORKER["image"].endswith(f":{tag}")
