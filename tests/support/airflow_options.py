"""Which options this Python's Airflow has, its providers' and our own included."""

from __future__ import annotations

from collections.abc import Iterable
from configparser import ConfigParser
from functools import cache
from importlib.metadata import version
from pathlib import Path

import airflow
from airflow.configuration import retrieve_configuration_description

AIRFLOW_VERSION = version("apache-airflow")

# What Airflow itself knows of the sections of providers that aren't installed: their options with a default.
_FALLBACKS = Path(airflow.__file__).parent / "config_templates" / "provider_config_fallback_defaults.cfg"
_WITHOUT_DEFAULT = {("celery", "result_backend")}


@cache
def known_options() -> frozenset[tuple[str, str]]:
    """Pairs of section and option."""
    description = retrieve_configuration_description()
    fallbacks = ConfigParser(interpolation=None)
    fallbacks.read(_FALLBACKS)
    described = {(section, option) for section, entry in description.items() for option in entry["options"]}
    with_default = {(section, option) for section in fallbacks.sections() for option in fallbacks[section]}
    return frozenset(described | with_default | _WITHOUT_DEFAULT)


def unknown_settings(variables: Iterable[str]) -> list[str]:
    """Those of the names AIRFLOW__SECTION__OPTION that mean nothing to this Airflow."""
    return sorted(name for name in variables if name.startswith("AIRFLOW__") and _option(name) not in known_options())


def _option(name: str) -> tuple[str, str]:
    _, section, option = name.lower().split("__", 2)
    return section, option
