"""Drop-in: copy this file, the folder `airflow_exclusive` and `.airflowignore` into the plugins folder.

Where the package is installed with pip as well, its entry point registers the plugin and this file stands back.
"""

from importlib.metadata import entry_points

if not any(entry.name == "airflow_exclusive" for entry in entry_points(group="airflow.plugins")):
    from airflow_exclusive.airflow.plugin import AirflowExclusivePlugin as AirflowExclusivePlugin
