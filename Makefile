# Each target does its whole set-up by itself; .venv/installed and .venv/developed say for which pins that was done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: install develop demo test check bench clean

install: $(VENV)/installed

# Also what tests and benchmarks need, a gigabyte more.
develop: $(VENV)/developed

# torch first and by its pin, so that nothing else can pull in another build of it.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/developed: $(VENV)/installed
	$(PIP) 'spikemesh[dev]'
	touch $@

demo: install
	$(BIN)/spikemesh demo

test: develop
	$(BIN)/pytest

check: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each prints JSON lines and fails when a bar does not hold; add ARGS=--commit to keep the results.
bench: develop
	set -e; for script in wire merge_path kernels train_step swarm_quality merge_checkpoints real_merge generate swarm_scale heterogeneous all_equal newcomer; do $(BIN)/python benchmarks/$$script.py $(ARGS); done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
