# `make run` and `make test` each work alone in a fresh clone; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
export PYTHON

BIN := .venv/bin
ENVIRONMENT := .venv/.environment
SUITE := .venv/.suite
JS_DIST := tests/e2e/node_modules/posthog-js/dist
ARGS ?=

.PHONY: help run test check unit integration e2e coverage fuzz crashes outage bench format provision clean

help: ## List the targets
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "%-14s %s\n", $$1, $$2 }'

$(ENVIRONMENT): pyproject.toml tests/provision.sh
	tests/provision.sh environment
	touch $@

$(SUITE): $(ENVIRONMENT) tests/e2e/package-lock.json tests/support/parts.py tests/support/machine.py
	tests/provision.sh suite
	touch $@

run: $(ENVIRONMENT) ## The proxy before a stand-in for PostHog, with a real event sent through (ARGS=--once: then end)
	$(BIN)/posthog-proxy demo $(if $(wildcard $(JS_DIST)/array.js),--static $(JS_DIST)) $(ARGS)

test: check coverage ## Everything: checks, the whole suite, the coverage of layers 0 to 3

provision: $(SUITE) ## Install what the suite needs

check: $(SUITE) ## ruff, formatting, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(SUITE) ## Unit and property tests (ARGS="-k name")
	$(BIN)/pytest -q tests/unit tests/property tests/test_layers.py $(ARGS)

integration: $(SUITE) ## Tests against real servers and clients
	$(BIN)/pytest -q tests/integration $(ARGS)

e2e: $(SUITE) ## Tests with the SDKs and a browser
	$(BIN)/pytest -q tests/e2e $(ARGS)

coverage: $(SUITE) ## The whole suite, then each module of layers 0 to 3 by its own unit test
	$(BIN)/pytest -q tests/e2e tests/integration tests/property $(ARGS)
	$(BIN)/pytest -q --cov --cov-context=test --cov-report= tests/unit tests/test_layers.py $(ARGS)
	$(BIN)/python -m tests.support.own_coverage

fuzz: $(SUITE) ## The properties with other examples in every round (ROUNDS=20)
	for round in $$(seq $(or $(ROUNDS),20)); do \
		EXAMPLES=others $(BIN)/pytest -q tests/property tests/integration/test_gate_oracles.py $(ARGS); \
	done

crashes: $(SUITE) ## 200 kills of worker, parent and stand-in while clients send: no event is lost (ROUNDS=N)
	SPOOL_ROUNDS=$(or $(ROUNDS),200) $(BIN)/pytest -q -s -o faulthandler_timeout=0 tests/integration/test_spool_storm.py $(ARGS)

outage: $(ENVIRONMENT) ## Two minutes without PostHog at 2,000 requests/s: latency, delivery, losses (ARGS="--rate N --seconds N")
	$(BIN)/python -m benchmarks.outage $(ARGS)

bench: $(ENVIRONMENT) ## Measure beside nginx, HAProxy and Caddy (ARGS="--loads ingest --write-docs")
	$(BIN)/python -m benchmarks.run $(ARGS)

format: $(SUITE) ## Put the sources into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what the other targets made
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist tests/e2e/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
