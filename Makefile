# Each target does its whole set-up by itself; .venv/installed and .venv/developed say for which pins that was done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS := 2
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Says what it runs and how long that takes, and goes on saying so.
STEP := $(PYTHON) .ci/step

.PHONY: install develop demo test test-long test-busy check bench clean

install: $(VENV)/installed

# Also what tests and benchmarks need, a gigabyte more.
develop: $(VENV)/developed

# torch first and by its pin, so that nothing else can pull in another build of it.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(STEP) 1/3 10 'an environment in $(VENV)' $(PYTHON) -m venv $(VENV)
	@$(STEP) 2/3 120 'torch, hundreds of MB' $(PIP) torch
	@$(STEP) 3/3 120 'spikemesh: what it needs, and compiled kernels' $(PIP) --editable .
	@touch $@

$(VENV)/developed: $(VENV)/installed
	@$(STEP) 1/1 90 'what tests and benchmarks need' $(PIP) 'spikemesh[dev]'
	@touch $@

demo: install
	$(BIN)/spikemesh demo

# In two processes; fails if it finds no test. ARGS are pytest's: ARGS=--durations=20.
test: develop
	$(BIN)/pytest -m 'not long' -n $(WORKERS) --dist worksteal $(ARGS)

# What is long on purpose: hundreds of kills, a storm over a thousand nodes, a demo from end to end.
test-long: develop
	$(BIN)/pytest -m long -n $(WORKERS) --dist worksteal $(ARGS)

# What works with real time, sockets and processes, on one core that two busy loops share: no test may need a fast machine.
test-busy: develop
	BIN=$(BIN) tests/busy.sh $(ARGS)

check: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each prints JSON lines and fails when a bar does not hold; add ARGS=--commit to keep the results.
bench: develop
	set -e; for script in wire merge_path kernels train_step swarm_quality merge_checkpoints loaders adapters real_merge init generate swarm_scale heterogeneous all_equal newcomer; do echo "benchmark: $$script" >&2; $(BIN)/python benchmarks/$$script.py $(ARGS); done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
