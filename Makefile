# llmrec-pipeline: `make help` lists the targets. Everything installed lands in .venv, once.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := $(CURDIR)/.venv
READY := $(VENV)/.ready
AIRFLOW := $(CURDIR)/.venv-airflow
PEERS := $(CURDIR)/.venv-peers
DELTA := 4.4.0
DELTA_SPARK := delta-spark_4.2_2.13
SPARK_HOME = $$($(VENV)/bin/python -c 'import importlib.util as u; print(u.find_spec("pyspark").submodule_search_locations[0])')
# spark-submit finds Spark and Python by the last three, and by nothing else; to compile the sources of torch and transformers anew takes each
# Python process longer than all else in their import, so that bytecode is kept where the environment says not to
ENVIRONMENT = PYTHONDONTWRITEBYTECODE= SPARK_HOME="$(SPARK_HOME)" PYSPARK_PYTHON="$(VENV)/bin/python" PATH="$(VENV)/bin:$$PATH"

.PHONY: help setup demo test test-faults test-airflow lint format docs shell clean bench-demo bench-ingest bench-encode bench-quality bench-ablations

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: $(READY) ## virtual environment, pinned dependencies, Delta's jars (once)

$(READY): constraints.txt setup.py conf/spark/spark-defaults.conf conf/spark/log4j2.properties conf/spark/spark-env.sh conf/spark/ivysettings.xml
	@bash conf/setup/check-prerequisites.sh "$(PYTHON)"
	@echo "Setting up .venv (once; torch alone is several GB) ..."
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -c constraints.txt -e ".[read,dev]"
	@bash conf/setup/prepare-spark.sh $(VENV) $(DELTA_SPARK) $(DELTA)
	@touch $@

demo: $(READY) ## the whole path on the shipped example: lists, metrics, three users
	@$(ENVIRONMENT) $(VENV)/bin/python jobs/run_all.py

test: $(READY) ## the test suite but for the two below, in two processes of one Spark session each
	@$(ENVIRONMENT) $(VENV)/bin/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

test-faults: $(READY) ## kill -9 every job around every commit, then run it again (some half an hour)
	@$(ENVIRONMENT) $(VENV)/bin/python -m pytest -m faults -s tests/steps/test_faults.py

test-airflow: $(READY) $(AIRFLOW)/.ready ## the DAGs, with an Airflow in .venv-airflow (640 MB, once)
	@$(ENVIRONMENT) $(AIRFLOW)/bin/python -m pytest --confcutdir=tests/airflow_dags tests/airflow_dags

$(AIRFLOW)/.ready: constraints-airflow.txt | $(READY)
	@echo "Setting up .venv-airflow ..."
	@test -x $(AIRFLOW)/bin/python || $(VENV)/bin/uv venv --quiet --python $(VENV)/bin/python $(AIRFLOW)
	@$(VENV)/bin/uv pip install --quiet --python $(AIRFLOW)/bin/python -c constraints-airflow.txt \
	  apache-airflow apache-airflow-providers-apache-spark deltalake pyarrow pytest hypothesis
	@touch $@

lint: $(READY) ## ruff and mypy
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

format: $(READY) ## let ruff rewrite the code
	@$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

bench-demo: $(READY) ## the demo measured, twice: seconds, memory, rows, quality
	@$(ENVIRONMENT) $(VENV)/bin/python benchmarks/bench_demo.py

bench-ingest: $(READY) ## ingest against Spark's own reader, pandas, and itself with more data
	@$(ENVIRONMENT) $(VENV)/bin/python benchmarks/bench_ingest.py

bench-encode: $(READY) ## encode against sentence-transformers, its own kernel and matmul (PARTS="retail long" for some)
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -c constraints.txt -e ".[read,dev,bench]"
	@$(ENVIRONMENT) env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(VENV)/bin/python benchmarks/bench_encode.py $(PARTS)

bench-quality: $(READY) $(PEERS)/.ready ## lists against baselines, their tuned sum and tuned peers (PARTS="video" for some)
	@$(ENVIRONMENT) $(VENV)/bin/python benchmarks/bench_quality.py $(PARTS)

bench-ablations: $(READY) ## the joint model trained anew without each of its parts (PARTS="video" for some)
	@$(ENVIRONMENT) $(VENV)/bin/python benchmarks/bench_ablations.py $(PARTS)

$(PEERS)/.ready: benchmarks/quality_peers.txt | $(READY)
	@echo "Setting up .venv-peers ..."
	@test -x $(PEERS)/bin/python || $(VENV)/bin/uv venv --quiet --python $(VENV)/bin/python $(PEERS)
	@$(VENV)/bin/uv pip install --quiet --python $(PEERS)/bin/python -r $<
	@touch $@

docs: $(READY) ## write docs/tables.md from the table definitions
	@$(VENV)/bin/python -m llmrec_pipeline.tables > docs/tables.md

shell: $(READY) ## a shell in which spark-submit works
	@$(ENVIRONMENT) bash

clean: ## remove the tables and MLflow's store of earlier runs (not .venv)
	rm -rf warehouse mlflow.db mlruns spark-warehouse metastore_db derby.log
