# make sweep: set up, then run the embedded sweep. make test: set up, then run the fast suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

CLUSTERS := tests/slurm tests/launch

.PHONY: sweep test test-long lint format clean

sweep: $(READY)
	$(BIN)/harness +experiment=tbs_sweep

test: $(READY)
	$(BIN)/python -m pytest -m "not long and not extras" -n 2 --dist loadfile --durations=15

# Two at a time. Those that start clusters wait for most of their time; Slurm's go first, as they wait longest.
test-long: $(READY)
	$(BIN)/python -m pytest -m "long and not extras" -n 2 --dist loadfile --durations=15 $(addprefix --ignore=,$(CLUSTERS))
	$(BIN)/python -m pytest -m "long and not extras" -n 2 --dist loadfile --no-loadscope-reorder --durations=15 $(CLUSTERS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) outputs dist build .pytest_cache .ruff_cache .hypothesis

# Exact versions come from constraints.txt, so that every machine installs the same. An interrupted set-up restarts.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@
