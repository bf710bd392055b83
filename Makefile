# make demo: everything on a fresh machine. make test: the same for the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two test processes with one thread each: more threads than cores would only wait for each other. In the order of
# their names, the files that take minutes do not come last, when only one process has something left to do.
test test-slow: export OMP_NUM_THREADS = 1
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## virtual environment and dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed; found $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,stack]'
	@touch $(STAMP)

demo: $(STAMP) ## draw the sample data, retrain a detector on it, inspect images with it
	$(BIN)/python -m flows.demo

test: $(STAMP) ## everything that runs within minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(STAMP) ## the longer checks too
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measurements, one JSON line each
	@for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

# What nothing can make again: data, quarantined images, what arrived, and what the servers of `aesc up` know.
KEPT := dvc-remote stack quarantine arrivals

clean: ## remove runs, caches and databases; the data, the local DVC remote, the stack's data and quarantine stay
	test ! -d .aesc || find .aesc -mindepth 1 -maxdepth 1 $(KEPT:%=! -name %) -exec rm -rf {} +
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
