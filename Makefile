# `make demo` and `make test` set up what they need; a second call installs nothing.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
PYTEST_FLAGS ?= -n auto --dist worksteal

.PHONY: venv demo test style types tests test-oldest bench coverage soak

venv: $(VENV)/.done

$(VENV)/.done: setup.py $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: $(PYTHON) is older than 3.10; run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y python3-venv \
	       && $(PYTHON) -m venv $(VENV); } \
	  || { echo "error: $(PYTHON) cannot make a virtual environment; run: sudo apt-get install python3-venv"; exit 2; }
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

demo: venv
	@examples/digits/run.sh

test: style types tests

style: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	for script in *.sh examples/*/*.sh .ci/run; do bash -n $$script || exit 1; done

types: venv
	$(BIN)/mypy

# One thread a process, as there is a process per core: more wait for each other most of the time.
tests: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

coverage: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS) --cov --cov-report=term

bench: $(VENV)/.bench
	OMP_NUM_THREADS=1 $(BIN)/python bench/encode.py --save

$(VENV)/.bench: $(VENV)/.done
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[bench]'
	@touch $@

# The same suite in a copy of its own, whose .venv holds the oldest versions setup.py allows.
test-oldest:
	rm -rf build/oldest && git clone --quiet . build/oldest
	K2DISTIL_DATA=$${K2DISTIL_DATA:-$(CURDIR)/../shared/data} \
	  $(MAKE) -C build/oldest tests CONSTRAINTS=constraints-oldest.txt

# tests/faults at full length, about ten minutes of CPU; its numbers go to bench/results/soak.jsonl.
soak: venv
	K2DISTIL_SOAK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults -v -p no:xdist --durations=0
	@tail -n 1 bench/results/soak.jsonl
