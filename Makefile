# Each target does all the set-up it needs in its own virtual environment: Python >= 3.11, make and PyPI suffice.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# What the web and desktop environments need from Debian or Ubuntu; without it their tests skip and say so.
DEBIAN := chromium xvfb openbox dbus at-spi2-core bubblewrap util-linux mousepad galculator pcmanfm lxterminal \
  gnumeric libatk-adaptor fonts-dejavu-core

.PHONY: help debian quickstart test lint check format bench bench-memory bench-training study clean
help:
	@echo "make quickstart  set up and run the whole loop on a tiny model (runs/quickstart)"
	@echo "make test        set up and run the tests"
	@echo "make check       ruff, mypy, import-linter, tests with doctests"
	@echo "make bench       the benchmarks"
	@echo "make bench-memory  what the memory is worth and withstands, in one to two hours; goes on where it was cut short"
	@echo "make bench-training  what the trainer's parts cost: a step, credit and advantages, replay; a step on a GPU"
	@echo "make study       uniform credit, ActFocus, imitation and controls, two processes; goes on where it was cut short"
	@echo "make debian      browser and desktop applications for the web and GUI environments (as root)"

debian:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(DEBIAN)

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "agentkit needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --quiet --constraint constraints.txt --editable '.[alfworld]' || \
	  echo "ALFWorld's planner cannot be built here (it needs g++, cmake and make): its tests will skip"
	touch $@

quickstart: $(VENV)/.run
	$(BIN)/agentkit quickstart

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	for file in $(wildcard benchmarks/*.py); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench-memory: $(VENV)/.dev
	$(BIN)/agentkit memory bench --out runs/bench-memory

bench-training: $(VENV)/.dev
	for file in training credit_speed replay gpu; do $(BIN)/python benchmarks/$$file.py || exit 1; done

study: $(VENV)/.run
	$(BIN)/python -m benchmarks.study --processes 2
	$(BIN)/python -m benchmarks.study --budget long --processes 2
	$(BIN)/python -m benchmarks.study --report

clean:
	rm -rf $(VENV) build dist *.egg-info
