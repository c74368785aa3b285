# Each target does its whole set-up by itself; .venv/installed says for which pins that was done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test check bench clean

install: $(VENV)/installed

# torch first and by its pin, so that nothing else can pull in another build of it.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/spikemesh demo

test: install
	$(BIN)/pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each prints JSON lines and fails when a bar does not hold; add ARGS=--commit to keep the results.
bench: install
	set -e; for script in wire merge_path kernels train_step swarm_quality merge_checkpoints real_merge generate swarm_scale heterogeneous all_equal; do $(BIN)/python benchmarks/$$script.py $(ARGS); done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
