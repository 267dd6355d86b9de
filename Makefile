# Two commands matter: `make up` runs the fleet, `make test` passes the tests. Both set up first.
SHELL := /bin/bash
PY := .venv/bin/python
SKILL ?= passage-qa
LINES ?= 40
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.tools/uv/bin:$(PATH)
export GATEWAY_PORT ROUTER_PORT REDIS_PORT SIDECAR_METRICS_PORT VALIDATION_PORT RUN_DIR
.DEFAULT_GOAL := help

##@ Run
.PHONY: help setup up down status logs
help: ## List the targets
	@awk -F':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' Makefile

setup: ## Install uv and the locked packages into .venv
	@tools/setup.sh

up: setup ## Run the fleet on this machine; returns when it is healthy
	@$(PY) -m tools.local_fleet up

down: ## Stop the fleet; requests in flight finish
	@if [ -x $(PY) ]; then $(PY) -m tools.local_fleet down; else echo "nothing runs"; fi

status: ## Say what runs where (JSON=1 for JSON)
	@$(PY) -m tools.local_fleet status $(if $(JSON),--json)

logs: ## Print the last log lines (SERVICE=router, LINES=40, FOLLOW=1)
	@$(PY) -m tools.local_fleet logs --lines $(LINES) $(if $(SERVICE),--service $(SERVICE)) $(if $(FOLLOW),--follow)

##@ Check
.PHONY: test unit integration e2e lint fmt proto proto-check ci
test: setup ## All tests: unit, integration, and end to end with the real model
	$(PY) -m pytest tests/unit tests/integration tests/e2e

unit: setup ## Tests without network
	$(PY) -m pytest tests/unit

integration: setup ## Tests with real servers on loopback
	$(PY) -m pytest tests/integration

e2e: setup ## Tests of the whole fleet with the real model
	$(PY) -m pytest tests/e2e

lint: setup proto-check ## ruff, mypy, import contracts, buf, yamllint
	ruff check .
	ruff format --check .
	mypy libs services tools tests benchmarks
	lint-imports
	buf lint
	yamllint -s buf.yaml
	yamllint -s -d '{extends: default, rules: {line-length: {max: 130}}}' libs/bem/acceptance/gates.yaml \
		services/safety/constitution.yaml

fmt: setup ## Format
	ruff check --fix .
	ruff format .

proto: setup ## Regenerate the code of protos/
	$(PY) tools/gen_protos.py

proto-check: setup ## Fail if generated code is stale
	$(PY) tools/gen_protos.py --check

ci: ## What runs before anything lands
	.ci/run

##@ Judge
.PHONY: gates
gates: setup ## Judge the acceptance gates into docs/results/gates.json (PHASE=1..4, JSON=1)
	@fleetctl gates $(if $(PHASE),--phase $(PHASE)) $(if $(JSON),--json)

##@ Train and measure
.PHONY: train train-scorer guard-gate bench-guard evaluate data-cards
.PHONY: bench bench-gate bench-pipeline bench-stats bench-training lock
train: setup ## Train a skill and evaluate it (SKILL=passage-qa)
	$(PY) -m bem.training train --skill $(SKILL) --out adapters/$(SKILL)
	$(PY) -m bem.training evaluate --skill $(SKILL) --out adapters/$(SKILL) --report docs/results/$(subst -,_,$(SKILL)).json

train-scorer: setup ## Train the sidecar's heads and report on what they never saw
	$(PY) -m tools.guard train
	$(PY) -m tools.guard report

guard-gate: setup ## The sidecar's arm of gate C: held-out attacks with and without it
	$(PY) -m tools.guard gate

evaluate: setup ## Compare a skill with its base through a running fleet
	$(PY) -m tools.evaluate

data-cards: setup ## Run the data pipeline on every set and write docs/data/
	$(PY) -m bem.data cards

bench-pipeline: setup ## Measure the pipelines beside the model's own time
	$(PY) -m benchmarks.pipeline

bench: setup ## Measure overhead, memory and start-up into docs/results/
	$(PY) -m benchmarks.overhead
	$(PY) -m benchmarks.process

bench-guard: setup ## Measure the guard, alone and beside others (GUARD_PYTHON: a venv with llm-guard)
	$(PY) -m benchmarks.guard

bench-gate: setup ## Compare canary gates on traces whose truth is known
	$(PY) -m benchmarks.gates

bench-stats: setup ## Measure coverage, false alarms and bootstrap throughput
	$(PY) -m benchmarks.coverage
	$(PY) -m benchmarks.bootstrap

bench-training: setup ## Measure a training step against peft's into docs/results/
	$(PY) -m benchmarks.training_step

lock: setup ## Resolve the locks anew
	uv pip compile --generate-hashes --no-header --no-annotate --extra dev --python-version 3.11 pyproject.toml -o requirements/dev.lock
	uv pip compile --generate-hashes --no-header --no-annotate --no-deps --python-version 3.11 requirements/no-deps.in -o requirements/no-deps.lock
	uv pip compile --generate-hashes --no-header --no-annotate --python-version 3.11 requirements/uv.in -o requirements/uv.lock
