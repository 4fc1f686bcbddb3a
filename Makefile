# make demo    runs both experiments and leaves pictures in results/
# make test    runs every test
# make lint    style, format and types
# make attacks plays every attack against every rule, tables and pictures in results/
# make reproduce runs the paper's experiments, figures and a report in results/reproduce/
# make bench   times the aggregation beside its peers', results in benchmarks/results/
# Each makes its own virtual environment first; nothing but Python 3.11+ and make is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO := 0

.PHONY: demo attacks reproduce test lint bench clean

demo: $(VENV)/demo
	$(BIN)/python -m simulations.demo

attacks: $(VENV)/demo
	$(BIN)/python -m simulations.attack_table

reproduce: $(VENV)/reproduce
	$(BIN)/python -m simulations.reproduce

test: $(VENV)/dev
	$(BIN)/python -m pytest

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt --editable

$(VENV)/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(install) ".[simulation,plots]"
	touch $@

$(VENV)/dev: $(VENV)/demo
	$(install) ".[dev]"
	touch $@

$(VENV)/reproduce: $(VENV)/demo
	$(install) ".[reproduce]"
	touch $@

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks

$(VENV)/bench: $(VENV)/demo
	$(install) ".[benchmarks]"
	touch $@

clean:
	rm -rf $(VENV) results
