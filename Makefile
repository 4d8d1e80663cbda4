# `make run` installs what is missing and starts Orcha; `make test` installs what is missing and runs the tests.
# Arguments are passed on: make run ARGS=--once; make test ARGS="-k storj -x".

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The uv on PATH, else one of our own.
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
# Golem's and Streamr's own clients, for test-peers.
PEERS := .peers
PEERS_FROM := orcha_pipeline_tests/peers

# The environment is ours, whatever the caller has activated.
unexport VIRTUAL_ENV
export UV_PROJECT_ENVIRONMENT := $(VENV)
# Trust what the system trusts, as git and the browser do: behind a company's proxy nothing else works.
export UV_SYSTEM_CERTS ?= true
SYSTEM_CERTS := $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt))
ifneq ($(SYSTEM_CERTS),)
export NODE_EXTRA_CA_CERTS ?= $(SYSTEM_CERTS)
endif

.PHONY: help setup run test test-peers bench-ingest bench-forecast bench-testnet bench-planner bench-faults bench-real-faults bench-service-faults bench-soak bench-anomalies lint clean

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 19

setup: $(STAMP) ## Install everything into .venv (the others do so by themselves)
	@echo "Everything is installed in $(VENV)"

run: $(STAMP) ## Start Orcha and watch over it until Ctrl-C (ARGS=--once leaves after one cycle)
	@exec $(BIN)/orcha up $(ARGS)

test: $(STAMP) ## Run the tests (ARGS go to pytest)
	@exec $(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

test-peers: $(STAMP) $(PEERS)/golem/.installed $(PEERS)/streamr/.installed ## Run the tests against the peers' own software (installs it into .peers)
	@PEERS_HOME="$(CURDIR)/$(PEERS)" exec $(BIN)/pytest $(PEERS_FROM) $(ARGS)

bench-ingest: $(STAMP) ## Measure the ingest of 4 and of 4,000 nodes of the testnet, for minutes (ARGS="--hosts 1 100 --runs 1")
	@exec $(BIN)/python -m orcha_pipeline_tests.bench.ingest $(ARGS)

bench-forecast: $(STAMP) ## Measure a training and cold forecasts of 4 and of 1,000 series, for minutes (ARGS="--runs 3")
	@exec $(BIN)/python -m orcha_pipeline_tests.bench.forecast $(ARGS)

bench-testnet: $(STAMP) ## Measure forecasts of the testnet's protocols against its own noise floor, for minutes (ARGS="--seed 2")
	@exec $(BIN)/python -m orcha_pipeline_tests.bench.testnet_forecast $(ARGS)

bench-faults: $(STAMP) ## Apply decisions with faults, none of which may be lost, for minutes (ARGS="--runs 10000")
	@exec $(BIN)/python -m orcha_pipeline_tests.bench.faults $(ARGS)

bench-soak: $(STAMP) ## Play weeks of cycles on a virtual clock, with outages, for hours (ARGS="--days 30", ARGS="--real 5")
	@exec $(BIN)/python -m orcha_pipeline_tests.bench.soak $(ARGS)

bench-real-faults: $(STAMP) ## Apply decisions in processes that are killed, to nodes behind real HTTP, for minutes (ARGS="--runs 200")
	@exec $(BIN)/python -m orcha_pipeline_tests.bench.real_faults $(ARGS)

bench-service-faults: $(STAMP) ## Kill worker, daemon, code server and all at every boundary of applications, for an hour (ARGS="--victims tree")
	@exec $(BIN)/python -m orcha_pipeline_tests.bench.service_faults $(ARGS)

bench-anomalies: $(STAMP) ## Measure the anomaly detectors on labelled series and by faults put into real ones (ARGS="--seed 2")
	@exec $(BIN)/python -m orcha_pipeline_tests.bench.anomalies $(ARGS)

bench-planner: $(STAMP) ## Measure policies in worlds of every kind, and a fleet in one program, for minutes (ARGS="--seeds 30")
	@exec $(BIN)/python -m orcha_pipeline_tests.bench.planner $(ARGS)

lint: $(STAMP) ## Check style, format, types and the lock file
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	$(UV) lock --check

clean: ## Remove what was installed and cached here; the data in .orcha stays
	@rm -rf $(VENV) .uv $(PEERS) .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -not -path './.orcha/*' -prune -exec rm -rf {} +

$(STAMP): pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	@$(UV) sync --locked --compile-bytecode
	touch $@

$(PEERS)/golem/.installed: $(PEERS_FROM)/golem/requirements.txt | $(STAMP)
	@$(UV) venv --quiet --clear --python $(BIN)/python $(@D)
	$(UV) pip sync --quiet --require-hashes --python $(@D)/bin/python $<
	touch $@

$(PEERS)/streamr/.installed: $(PEERS_FROM)/streamr/package.json $(PEERS_FROM)/streamr/package-lock.json
	@if ! { command -v node && command -v npm; } >/dev/null; then
		echo "Node.js and npm are not on PATH: the tests with Streamr's own software will be skipped." >&2
		exit 0
	fi
	mkdir -p $(@D)
	cp $^ $(@D)
	# Nothing is compiled: see native_addons.cjs.
	if ! npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --loglevel=error; then
		rm -rf $(@D)/node_modules
		echo "npm could not install Streamr's own software (see above): the tests with it will be skipped." >&2
		exit 0
	fi
	touch $@

.uv/bin/uv:
	@echo "uv is not installed: getting it into .uv/"
	if ! python3 -m venv .uv; then
		rm -rf .uv
		echo "python3 cannot make virtual environments here." >&2
		echo "Install its venv module (Debian, Ubuntu: apt install python3-venv) or uv itself, and try again." >&2
		exit 1
	fi
	.uv/bin/pip install --quiet --disable-pip-version-check uv
