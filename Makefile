# Two commands on a fresh machine: `make demo` measures a TGS, `make test` proves the tool.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What the tests need: every extra that runs on a CPU.
EXTRAS := train,deepspeed,profile,dev
# `-n 2` on two cores; PYTEST_ARGS narrows a run down.
PYTEST_ARGS ?=

.PHONY: help install demo check test test-cluster bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

install: $(STAMP)  ## make .venv with the tested set of packages

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

demo: $(STAMP)  ## install and measure the smallest preset
	$(BIN)/tgsbench run --preset tiny_cpu --headless

check: $(STAMP)  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check tgsbench
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP)  ## all tests that run on a CPU
	$(BIN)/python -m pytest -n 2 -m "not gpu and not peers and not cluster" $(PYTEST_ARGS)

test-cluster: $(STAMP)  ## jobs on a real Slurm, two network-namespace hosts (root; apt-get install slurm-wlm munge iproute2)
	$(BIN)/python -m pytest -m cluster $(PYTEST_ARGS)

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist
