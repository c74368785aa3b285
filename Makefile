# Each target does its whole set-up by itself; .venv/installed and .venv/developed say for which pins that was done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS := 2
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: install develop demo test test-long test-busy check bench clean

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

# Two processes, then those marked `alone` in one. A phase that finds no test fails. ARGS are pytest's: ARGS=--durations=20.
test: develop
	$(BIN)/pytest -m 'not long and not alone' -n $(WORKERS) --dist worksteal $(ARGS)
	$(BIN)/pytest -m 'not long and alone' $(ARGS)

# What is long on purpose: hundreds of kills, every attack on every byte.
test-long: develop
	$(BIN)/pytest -m 'long and not alone' -n $(WORKERS) --dist worksteal $(ARGS)
	$(BIN)/pytest -m 'long and alone' $(ARGS)

# What works with real time, sockets and processes, on one core that two busy loops share: no test may need a fast machine.
test-busy: develop
	BIN=$(BIN) tests/busy.sh $(ARGS)

check: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each prints JSON lines and fails when a bar does not hold; add ARGS=--commit to keep the results.
bench: develop
	set -e; for script in wire merge_path kernels train_step swarm_quality merge_checkpoints real_merge generate swarm_scale heterogeneous all_equal newcomer; do $(BIN)/python benchmarks/$$script.py $(ARGS); done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
