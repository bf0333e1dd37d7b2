# Targets with a `##` comment show up in `make help`.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

# The interpreters to use; the newest and the oldest that will do, by default.
PYTHON ?=
PYTHON_2_11 ?=

VENV := .venv
BIN := $(VENV)/bin
MINI := .venv-2.11
# More tests at a time than processors, since most of them wait for something (tests/conftest.py says which go together).
# One fewer with Airflow 2.11: with four, leases of 3 s were lost there where the machine stood still.
WORKERS := -n 4
MINI_WORKERS := -n 3
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

.PHONY: demo-celery
demo-celery: venv ## Roll up all of 2013 on three Celery workers that are killed and stopped (JANUARY=1: a small one)
	$(BIN)/python -m deploy.demo.celery $(if $(JANUARY),--january)

.PHONY: up
up: venv ## Start PostgreSQL, Valkey and Airflow with the sample DAGs; they stay up
	$(BIN)/python -m deploy.embedded up

.PHONY: status
status: venv ## Say what of `make up` is running
	$(BIN)/python -m deploy.embedded status

.PHONY: down
down: venv ## Stop what `make up` started, keeping its data
	$(BIN)/python -m deploy.embedded down

.PHONY: up-mini
up-mini: venv-mini ## Start the mini deployment (Airflow 2.11) on the same servers
	$(MINI)/bin/python -m deploy.embedded up --mini

.PHONY: status-mini
status-mini: venv-mini ## Say what of `make up-mini` is running
	$(MINI)/bin/python -m deploy.embedded status --mini

.PHONY: down-mini
down-mini: venv-mini ## Stop what `make up-mini` started, keeping its data
	$(MINI)/bin/python -m deploy.embedded down --mini

.PHONY: test
test: system-packages venv ## Run all tests but those of Celery and of two deployments
	$(BIN)/python -m pytest $(WORKERS)

.PHONY: test-mini
test-mini: system-packages venv-mini ## Run all tests with Airflow 2.11
	$(MINI)/bin/python -m pytest $(MINI_WORKERS)

.PHONY: test-browser
test-browser: venv venv-mini ## Look at the page "Exclusive jobs" with a browser, in Airflow 3.3 and 2.11
	@sh deploy/system-packages.sh chromium
	BROWSER_REQUIRED=1 $(BIN)/python -m pytest tests/browser
	BROWSER_REQUIRED=1 $(MINI)/bin/python -m pytest tests/browser

.PHONY: torture
torture: venv ## Strike nodes and servers at random for five minutes, and read the books (MINUTES=…, SEED=…)
	$(BIN)/python -m tests.torture $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

.PHONY: bench
bench: venv ## Measure what guarding costs, each figure against its limit
	$(BIN)/python -m benchmarks

.PHONY: compare
compare: venv venv-mini ## Measure the deployments against each other, most of an hour; writes comparison/
	$(BIN)/python -m benchmarks.comparison

.PHONY: side-by-side
side-by-side: venv venv-mini system-packages ## Let both Airflows work through 200 ticks together, killing each; half an hour (TICKS=…, SECOND=green: two of 3.3)
	$(BIN)/python -m pytest tests/side_by_side $(if $(TICKS),--ticks $(TICKS)) $(if $(SECOND),--second $(SECOND))

.PHONY: test-celery
test-celery: venv ## Test jobs on Celery workers that are lost, stopped and given tasks twice
	$(BIN)/python -m pytest tests/celery

.PHONY: bench-celery
bench-celery: venv ## Measure what Celery's settings do when workers are lost, 18 minutes
	$(BIN)/python -m benchmarks.celery

.PHONY: bench-scale
bench-scale: venv ## Measure admissions by the number of processes and by the length of the ledger, ten minutes
	$(BIN)/python -m benchmarks.scale

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
venv: $(VENV)/.ready ## Make the environment of Airflow 3.3 (PYTHON=… to name its Python)

.PHONY: venv-mini
venv-mini: $(MINI)/.ready ## Make that of Airflow 2.11 (PYTHON_2_11=… to name its Python)

.PHONY: requirements
requirements: $(VENV)/.uv ## Pin the requirements again (UPGRADE=1: to the newest versions)
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	for airflow in airflow-3.3 airflow-2.11; do \
		$(COMPILE) --no-emit-package pandas --no-emit-package numpy requirements/$$airflow.in -o requirements/$$airflow.txt || exit; \
	done

.PHONY: clean
clean: ## Remove the Python environments and the tools' caches
	rm -rf $(VENV) $(MINI) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.uv: find = "$(PYTHON)" 3.13 3.12 3.11 3.10
$(MINI)/.uv: find = "$(PYTHON_2_11)" 3.10 3.11 3.12
$(VENV)/.uv $(MINI)/.uv: requirements/uv.txt
	python=$$(sh deploy/find-python.sh $(find)) && "$$python" -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/uv.txt
	touch $@

$(VENV)/.ready: requirements/airflow-3.3.txt
$(MINI)/.ready: requirements/airflow-2.11.txt
$(VENV)/.ready $(MINI)/.ready: %/.ready: %/.uv pyproject.toml
	$(@D)/bin/uv pip sync --quiet --python $(@D)/bin/python --require-hashes $(filter requirements/%,$^)
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: env
env: ## Write .env for docker-compose.yml, with random secrets
	@$(or $(PYTHON),python3) deploy/compose/env.py

COMPOSE_CHECKS = tests/deploy/test_compose.py tests/deploy/test_kubernetes.py

.PHONY: compose-check
compose-check: venv venv-mini ## Check docker-compose.yml and docs/kubernetes.md, without an engine
	COMPOSE_REQUIRED=1 $(BIN)/python -m pytest -q $(COMPOSE_CHECKS)
	$(MINI)/bin/python -m pytest -q $(COMPOSE_CHECKS)

.PHONY: compose-test
compose-test: venv ## Run docker-compose.yml for real, kill a worker in it, and count (needs a Docker engine)
	$(BIN)/python -m deploy.compose
