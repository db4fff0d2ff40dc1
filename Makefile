# Everything starts here: `make` lists what there is. Needs GNU Make and Python 3.12 or 3.13, nothing else.
# Where there is no make (Windows): see "Without make" in README.md.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

# --- what a caller may set, as in `make run PORT=8010` ---------------------------------------------------------------
# A Python 3.12 or 3.13 to use instead of the first one found.
PYTHON ?=
# Where the environment is made.
VENV ?= .venv
# Ports of `make run` and of `make lambda`.
PORT = 8000
CONSOLE_PORT = 8501
LAMBDA_PORT = 9000
# Test processes, and further words for pytest, as in `make test ARGS='-k rules -x'`.
WORKERS = 2
ARGS =
# `make train`: the file, what it is, and where the bundle goes.
DATA =
FORMAT = csv
OUT = out
# `make image`: what it is called, its processor, another base, and the pointer of a bundle that it is to carry.
IMAGE = fraud-detection-api:latest
ARCH = x86_64
BASE =
BUNDLE =
# `make publish`, `smoke`, `destroy`: the name of the deployed stack.
STACK =

PYENV_ROOT ?= $(HOME)/.pyenv
BIN := $(VENV)/bin
PACKAGES := fraud_api_lambda training streamlit_app
# The first of these that really runs and is 3.12 or 3.13: a pyenv shim may bear the right name and still not run.
CANDIDATES = $(if $(PYTHON),$(PYTHON),python3.13 python3.12 \
	$(wildcard $(PYENV_ROOT)/versions/3.13*/bin/python) $(wildcard $(PYENV_ROOT)/versions/3.12*/bin/python) \
	python3 python)
SUPPORTED := import sys; sys.exit(sys.version_info[:2] not in ((3, 12), (3, 13)))

# A stamp is a copy of the lock it stands for: equal means installed, whatever the files' times say.
RUN_LOCKS := training/requirements.txt streamlit_app/requirements.txt
RUN_STAMP := $(VENV)/.installed-run
ALL_LOCK := tests/requirements.txt
ALL_STAMP := $(VENV)/.installed-all

.PHONY: help setup run test test-fast test-browser test-container lint format chaos bench screenshots train lambda image \
	publish smoke destroy lock clean \
	environment environment-run

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: environment ## make .venv with all that development needs
	@echo "Ready: $(VENV) ($$($(BIN)/python --version))."

run: environment-run ## serve API and console on this machine (PORT=, CONSOLE_PORT=); trains a bundle the first time
	@$(BIN)/python -m training demo --port "$(PORT)" --console-port "$(CONSOLE_PORT)"

test: environment ## run the whole test suite (WORKERS=, ARGS=)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-fast: environment ## run the tests that start no server and read no measuring data
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not server and not data" $(ARGS)

test-browser: environment ## run the console's tests in chromium, one after the other (ARGS=)
	@BROWSER_TESTS=1 $(BIN)/python -m pytest tests/streamlit_app/test_browser.py $(ARGS)

lint: environment ## ruff, mypy --strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: environment ## let ruff lay the code out
	@$(BIN)/ruff check --fix --select I .
	@$(BIN)/ruff format .

chaos: environment ## the long forms of faults, bad input and fuzzing; writes the table in docs/reliability.md (an hour)
	@$(BIN)/python -m pytest -n 0 -m chaos --full $(ARGS)

bench: environment ## run what benchmarks/ holds
	@$(BIN)/python -m benchmarks

screenshots: environment ## picture the console's pages into docs/images (needs chromium; ARGS="alerts model": these)
	@$(BIN)/python -m tests.streamlit_app.screenshots $(ARGS)

train: environment-run ## train and seal a bundle: DATA=file [FORMAT=paysim|handbook|csv|synthetic] [OUT=folder] [ARGS=...]
	@test -n "$(DATA)" || { echo "Name the data: make train DATA=transactions.csv [FORMAT=paysim|handbook|csv|synthetic]" >&2; exit 2; }
	@$(BIN)/python -m training run --data "$(DATA)" --format "$(FORMAT)" --out "$(OUT)" $(ARGS)

lambda: environment ## serve the handler in the real Lambda runtime on 127.0.0.1 (LAMBDA_PORT=); Linux only
	@$(BIN)/python -m training.runtime --port "$(LAMBDA_PORT)"

image: environment-run ## build the service's image, print its layers (BUNDLE=models/current: carried; ARCH=, IMAGE=, BASE=)
	@$(BIN)/python -m training.image --tag "$(IMAGE)" --arch "$(ARCH)" --bundle "$(BUNDLE)" --base "$(BASE)"

# Root, Debian's docker.io, debootstrap, iproute2, and the SAM CLI in .venv-sam or on the PATH. One after the other.
test-container: environment ## build the image and run it in a Docker engine of its own, behind the SAM CLI (ARGS=)
	@$(BIN)/python -m pytest tests/container -n 0 --timeout 900 $(ARGS)

publish smoke destroy: environment-run
	@test -n "$(STACK)" || { echo "Name the deployed stack: make $@ STACK=fraud-api" >&2; exit 2; }
	@$(BIN)/python -m training $@ --stack "$(STACK)" $(ARGS)
publish: ## give the bundle to a deployed stack: STACK=name
smoke: ## ask a deployed stack for decisions and check them: STACK=name
destroy: ## empty and remove a deployed stack: STACK=name

# The universal locks hold for 3.12 and 3.13 on Linux, macOS and Windows; everything is resolved once, in the lock for
# development, and the others are parts of it. `make lock ARGS=--upgrade` takes the newest versions.
LOCK = $(BIN)/uv pip compile -q --universal --python-version 3.12 -p $(BIN)/python --no-python-downloads \
	--generate-hashes --no-emit-index-url --no-annotate --no-header
lock: environment ## write the locks anew from pyproject.toml (ARGS=--upgrade)
	@$(LOCK) $(ARGS) --group development -o $(ALL_LOCK)
	@$(LOCK) --group serving -c $(ALL_LOCK) -o fraud_api_lambda/requirements.txt
	@$(LOCK) --group training -c $(ALL_LOCK) -o training/requirements.txt
	@$(LOCK) --group console -c $(ALL_LOCK) -o streamlit_app/requirements.txt
	@$(LOCK) $(ARGS) --group sam -o .ci/sam.txt
	@$(LOCK) $(ARGS) --group checks -o .ci/checks.txt

clean: ## remove what was built and cached; keeps models/, keys/ and data/
	@rm -rf build out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .aws-sam "$(VENV)" .venv-*
	@find $(PACKAGES) tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment -------------------------------------------------------------------------------------------------

environment:
	@$(call installed,$(ALL_LOCK),$(ALL_STAMP)) || { $(make_venv) && $(call install,$(ALL_LOCK),$(ALL_STAMP)); }

# What development needs holds all that running needs.
environment-run:
	@$(call installed,$(ALL_LOCK),$(ALL_STAMP)) || $(call installed,$(RUN_LOCKS),$(RUN_STAMP)) \
		|| { $(make_venv) && $(call install,$(RUN_LOCKS),$(RUN_STAMP)); }

installed = { cat $(1) | cmp -s - $(2) && $(BIN)/python -c '$(SUPPORTED)' 2>/dev/null; }

define install
{ rm -f $(ALL_STAMP) $(RUN_STAMP); \
	echo "Installing the locked packages into $(VENV): a minute or two, the first time only."; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --require-hashes $(addprefix -r ,$(1)) \
	&& cat $(1) > $(2); }
endef

# An environment whose Python has gone, or is of another version, is made anew.
define make_venv
{ $(BIN)/python -c '$(SUPPORTED)' 2>/dev/null || { \
	found=; \
	for candidate in $(CANDIDATES); do \
		if "$$candidate" -c '$(SUPPORTED)' >/dev/null 2>&1; then found="$$candidate"; break; fi; \
	done; \
	if test -z "$$found"; then \
		echo "No Python 3.12 or 3.13 found (tried: $(strip $(CANDIDATES))). Install one and run make again, or name it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.13" >&2; \
		exit 1; \
	fi; \
	rm -rf "$(VENV)"; \
	"$$found" -m venv "$(VENV)" >/dev/null 2>&1 || { \
		rm -rf "$(VENV)"; \
		echo "$$found cannot make an environment. Install its venv module (Debian, Ubuntu: apt install python3-venv) and run make again." >&2; \
		exit 1; \
	}; \
}; }
endef
