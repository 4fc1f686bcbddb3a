# make demo      trains under attack, FedAvg beside GeometricMedianOfMeans; report in results/demo/
# make test      runs every test
# make test-long runs for hours what `make test` runs for seconds: a million fuzzed payloads, hundreds
#                of rounds, a search for colluders that lead further than the bound
# make test-flower-oldest, -newest or -nightly runs types and what depends on Flower with that
#                version of it and the newest of all else, in .venv-flower-...
# make coverage  runs every test, slower, and lists the lines of flwr_byz that none of them reaches
# make lint      style, format and types
# make site      builds the documentation in docs/_build/, offline once the environment is there
# make package   builds sdist and wheel in dist/ and tests them, in .venv-package, without constraints
# make attacks   runs every attack against every rule; report in results/attacks/
# make reproduce runs the paper's claims; report in results/reproduce/
# make matrix    runs every rule under every attack on data more and less alike; report in
#                results/matrix/; make matrix-quick a part of it in a minute
# make harder    trains a convolution on MNIST-1D under attack through Flower's simulation; report in
#                results/harder/
# make unlike    runs rules with and without trusted data where clients differ; report in
#                results/unlike/
# make asynchronous runs steps that wait for a quorum beside rounds that wait for all clients, in
#                simulated time; report in results/asynchronous/
# make worst-case searches for the strongest attack; report in results/worst-case/
# make trial     brings up a SuperLink and SuperNodes with TLS and keys, and runs the app among them
# make bench     times the aggregation beside its peers', results in benchmarks/results/
# Each makes its own virtual environment first; nothing but Python 3.11+ and make is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO := 0

FLOWER_oldest := flwr[simulation]==1.38.*
FLOWER_newest := flwr[simulation]
FLOWER_nightly := flwr-nightly[simulation]
TEST_FLOWER := test-flower-oldest test-flower-newest test-flower-nightly

.PHONY: demo test test-long $(TEST_FLOWER) coverage lint site package asynchronous attacks harder \
	reproduce matrix matrix-quick unlike worst-case trial bench clean

asynchronous attacks demo harder matrix matrix-quick reproduce unlike worst-case: $(VENV)/demo
	$(BIN)/python -m simulations $@

test: $(VENV)/dev
	$(BIN)/python -m pytest

test-long: $(VENV)/dev
	$(BIN)/python -m tests.long.fuzz --payloads 1000000
	$(BIN)/python -m tests.long.soak process
	$(BIN)/python -m tests.long.soak simulation
	$(BIN)/python -m tests.long.soak deployment --results results/soak
	$(BIN)/python -m tests.long.search_colluders --cases 100000

pip_flower = .venv-flower-$*/bin/python -m pip --quiet --disable-pip-version-check

$(TEST_FLOWER): test-flower-%:  # flwr and flwr-nightly are the same files
	$(PYTHON) -m venv .venv-flower-$*
	$(pip_flower) install --upgrade --editable ".[plots]" hypothesis mypy psutil \
		pytest pytest-xdist scikit-learn trustme
	$(pip_flower) uninstall --yes flwr flwr-nightly
	$(pip_flower) install --upgrade "$(FLOWER_$*)"
	.venv-flower-$*/bin/python -m mypy
	.venv-flower-$*/bin/python -m pytest tests/clientapp tests/redteam tests/rounds \
		tests/strategy tests/transport

coverage: $(VENV)/dev
	$(BIN)/python -m pytest --cov

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: $(VENV)/docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going docs docs/_build

# The tests of the unpacked sdist that need no Ray, run against the installed wheel.
package:
	rm -rf dist .venv-package
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip hatchling
	.venv-package/bin/python -m hatchling build
	mkdir .venv-package/sdist
	tar -xf dist/*.tar.gz -C .venv-package/sdist --strip-components 1
	rm -r .venv-package/sdist/flwr_byz
	cd .venv-package/sdist && ../bin/python -m pip install --quiet ../../dist/*.whl --group test \
		&& ../bin/python -m pytest tests/aggregation tests/attacks tests/theory \
		tests/strategy/test_strategies.py tests/strategy/test_malformed_replies.py \
		tests/transport/test_transport.py

trial: $(VENV)/trial
	$(BIN)/python -m trial

bench: $(VENV)/benchmarks
	$(BIN)/python -m benchmarks

pip = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
install = $(pip) --editable ".[plots,simulation]" --group

$(VENV)/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(pip) "pip>=25.1"  # the first with --group
	$(install) demo
	touch $@

$(VENV)/%: $(VENV)/demo  # a dependency group
	$(install) $*
	touch $@

clean:
	rm -rf $(VENV) .venv-flower-* .venv-package dist results docs/_build docs/_pictures
