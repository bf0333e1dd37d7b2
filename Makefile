# Targets with a `##` comment show up in `make help`.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AIRFLOW := airflow-3.3
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-python-downloads \
	--generate-hashes --no-header $(if $(UPGRADE),--upgrade)

# Another environment's settings would lead the tools below away from $(VENV).
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH PYTHONSAFEPATH PYTHONSTARTUP
unexport PIP_PREFIX PIP_TARGET PIP_USER PIP_REQUIRE_VIRTUALENV
unexport UV_PROJECT_ENVIRONMENT UV_PYTHON UV_SYSTEM_PYTHON

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: venv ## Show in a few minutes what exclusive jobs do, on real servers
	$(BIN)/python -m deploy.demo

.PHONY: up
up: venv ## Start PostgreSQL, Valkey and Airflow with the sample DAGs; they stay up
	$(BIN)/python -m deploy.embedded up

.PHONY: status
status: venv ## Say what of `make up` is running
	$(BIN)/python -m deploy.embedded status

.PHONY: down
down: venv ## Stop what `make up` started, keeping its data
	$(BIN)/python -m deploy.embedded down

.PHONY: test
test: venv system-packages ## Run all tests
	$(BIN)/python -m pytest

.PHONY: bench
bench: venv ## Measure what guarding costs, each figure against its limit
	$(BIN)/python -m benchmarks

.PHONY: system-packages
system-packages:
	@sh deploy/system-packages.sh

.PHONY: lint
lint: venv ## Check style, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: venv ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: venv
venv: $(VENV)/.ready ## Make the Python environment in .venv

.PHONY: requirements
requirements: $(VENV)/.uv ## Pin the requirements again (UPGRADE=1: to the newest versions)
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) --no-emit-package pandas --no-emit-package numpy requirements/$(AIRFLOW).in -o requirements/$(AIRFLOW).txt

.PHONY: clean
clean: ## Remove the Python environment and the tools' caches
	rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo >&2 "Python 3.10 or newer is needed; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/uv.txt
	touch $@

$(VENV)/.ready: $(VENV)/.uv requirements/$(AIRFLOW).txt pyproject.toml
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/$(AIRFLOW).txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: env
env: ## Write .env for docker-compose.yml, with random secrets
	@$(or $(PYTHON),python3) deploy/compose/env.py

.PHONY: compose-check
compose-check: venv ## Check docker-compose.yml and docs/kubernetes.md, without an engine
	@for python in .venv*/bin/python; do $$python -m pytest -q tests/deploy/test_compose.py tests/deploy/test_kubernetes.py || exit; done

.PHONY: compose-test
compose-test: venv ## Run docker-compose.yml for real, kill a worker in it, and count (needs a Docker engine)
	$(BIN)/python -m deploy.compose
