# Two commands on a fresh machine: make demo, make test. Both create what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := .venv-lowest
SUITE := -m pytest -n 2 --dist worksteal
QUICK := -m 'not integration and not slow and not gpu'
ALL := -m 'not slow and not gpu'
# timm is the same there, and with it what the walk over its networks says; the study, the notebooks and
# the lines of README and pages are made of commands and functions that have tests of their own.
AS_BEFORE := $(addprefix --ignore tests/,test_docs.py experiments/test_network_walk.py \
	experiments/test_notebooks.py experiments/cifar10)

# What pip leaves uncompiled is compiled when it is first imported, and kept: else by every process again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo docs test test-all test-lowest test-wheel check fix notebooks figures bench clean

help:  ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

install: $(READY)  ## Create .venv and install everything at the tested versions

# Each environment is installed once, and again only when its requirements change.
$(READY): pyproject.toml constraints.txt
$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
$(READY) $(LOWEST)/.ready:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "expected Python 3.11 or newer, got %d.%d; set PYTHON=..." % v[:2])'
	@$(@D)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint $(lastword $^) --editable '.[dev]'
	@touch $@

demo: $(READY)  ## Pretrain, train, measure and draw on real images (about 4 minutes)
	$(BIN)/a2mim demo $(ARGS)

# Sphinx comes into the same environment when it is first wanted.
$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

docs: $(VENV)/.docs  ## Build the pages into docs/_build/html; warnings are errors (a minute)
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d docs/_build/trees docs docs/_build/html

test: $(READY)  ## Run the quick tests (at most 4 minutes on two cores)
	$(BIN)/python $(SUITE) $(QUICK)

test-all: $(READY)  ## Run these and those that start processes, browsers or notebooks
	$(BIN)/python $(SUITE) $(ALL)

test-lowest: $(LOWEST)/.ready  ## Run them with the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python $(SUITE) $(ALL) $(AS_BEFORE)

test-wheel: $(READY)  ## Build the wheel, and use it in an empty environment and folder
	rm -rf dist .venv-wheel
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt dist/*.whl
	.ci/use-wheel .venv-wheel/bin
	rm -rf .venv-wheel

check: $(READY)  ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(READY)  ## Repair what lint and format can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(READY)  ## Execute the notebooks from their sources, or those that ARGS names
	$(BIN)/python -m experiments.notebooks $(ARGS)

figures: $(READY)  ## Draw the committed figures and reports again, from their tables
	$(BIN)/a2mim figures results/demo
	$(BIN)/a2mim figures results/compare-imagenet
	$(BIN)/a2mim figures results/compare-cifar
	$(BIN)/a2mim figures results/pretrain/cifar10-resnet
	$(BIN)/a2mim figures results/pretrain/cifar10-vit
	$(BIN)/python results/siamese/figures.py
	$(BIN)/python -m experiments.cifar10.report
	$(BIN)/python -m experiments.photographs.report

bench: $(READY)  ## Time the toolkit against bare models; writes results/bench/
	$(BIN)/python -m experiments.bench $(ARGS)

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) $(LOWEST) .venv-wheel dist docs/_build docs/generated docs/notebooks docs/api/generated .mypy_cache .pytest_cache .ruff_cache .hypothesis
