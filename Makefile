# Everything runs in .venv, which the first target that needs it creates. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Tests run on this many processes; a file's tests stay together, so that a model compiles once.
WORKERS ?= 2
# A process that a test takes down is not replaced: pytest-xdist may wait for ever for one that is (the other goes on).
XDIST := -n $(WORKERS) --dist loadfile --max-worker-restart 0
PYTEST_ARGS ?=
INPUTS := pyproject.toml constraints.txt pysciml/_version.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format tutorials bench bench-quick references test-julia clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# What a user needs, and no more: the demo should not wait for the developers' tools.
$(VENV)/.stamp-base: $(INPUTS) | $(BIN)/python
	$(PIP) install -qq --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.stamp-dev: $(INPUTS) | $(BIN)/python
	$(PIP) install -qq --constraint constraints.txt --editable '.[dev,jax,dask]'
	@touch $@ $(VENV)/.stamp-base

$(VENV)/.stamp-bench: $(VENV)/.stamp-dev
	$(PIP) install -qq --constraint constraints.txt --editable '.[bench]'
	-$(PIP) install -qq --constraint constraints.txt numbalsoda
	@touch $@

setup: $(VENV)/.stamp-dev ## create .venv with everything the tests need

demo: $(VENV)/.stamp-base ## fit Lotka-Volterra to 21 years of lynx and hare pelts
	$(BIN)/pysciml demo

lint: $(VENV)/.stamp-dev ## ruff (lint, format) and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

format: $(VENV)/.stamp-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint ## lint, then every test (tutorials too); skipped tests are listed with their reasons
	$(BIN)/python -m pytest $(XDIST) -rs --durations 10 $(PYTEST_ARGS)

test-julia: $(VENV)/.stamp-dev ## the tests that need Julia, after `pysciml julia setup` (PYTHON_JULIAPKG_EXE names a Julia)
	PYSCIML_TEST_JULIA=1 $(BIN)/python -m pytest -m julia -rs -o faulthandler_timeout=0 $(PYTEST_ARGS)

tutorials: $(VENV)/.stamp-dev ## execute the tutorials and keep their output
	$(BIN)/jupyter execute --inplace tutorials/*.ipynb

bench: $(VENV)/.stamp-bench ## measure against other solvers; writes benchmarks/results/
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.stamp-bench ## the same with fewer tolerances and repetitions, not written
	$(BIN)/python -m benchmarks --quick

references: $(VENV)/.stamp-bench ## recompute benchmarks/references.json (minutes)
	$(BIN)/python -m benchmarks.reference

clean: ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
