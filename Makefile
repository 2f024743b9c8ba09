# The project's commands. `make help` lists them. VENV=path names another environment, PYTHON=... another Python.
VENV ?= .venv
PYTHON ?= python3
UNCLIP = $(VENV)/bin/unclip

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow fuzz test-gpu test-slurm lint format docs clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## make or refresh the environment (.venv, or VENV=path)
	@$(PYTHON) scripts/setup_env.py "$(VENV)"

demo: setup  ## text to image on real Fashion-MNIST, from nothing to pictures, on a CPU
	@$(UNCLIP) run experiment=demo results=outputs/demo

test: setup  ## the test suite
	@$(VENV)/bin/python -m pytest -m "not slow and not gpu and not slurm" -n 2 --dist loadgroup -q

test-slow: setup  ## the tests that take minutes
	@$(VENV)/bin/python -m pytest -m "slow" -q

CASES ?= 10000
fuzz: setup  ## ten thousand random mistakes in requests and files; CASES=N others, CASES=NAME:NUMBER one again
	@CASES='$(CASES)' $(VENV)/bin/python -m pytest tests/fuzz -n 2 -q -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

test-gpu: setup  ## the tests that need a CUDA GPU
	@$(VENV)/bin/python -m pytest -m "gpu" -q

test-slurm: setup  ## the tests that need a Slurm, on one of their own (root, Debian; 2 min)
	@$(VENV)/bin/python -m pytest -m "slurm" -q

lint: setup  ## ruff, format check, type check, the numbers of the house
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(VENV)/bin/python scripts/house.py

format: setup  ## let ruff rewrite the files
	@$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

docs: setup  ## the documents into site/, from docs/, the code and conf/
	@$(VENV)/bin/python scripts/reference.py && $(VENV)/bin/zensical build --strict --clean

clean:  ## remove caches and builds; data, outputs and .venv stay
	@rm -rf build dist site docs/reference .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis src/*.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
