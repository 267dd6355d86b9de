# Checks: lint, types, tests with floors, coverage, wire compatibility. Included by the Makefile.
PYTEST := $(PY) -m pytest
# services/ is checked as bem_fleet.services, through the link libs/bem_fleet/services.
TYPED := libs/bem libs/fleet libs/bem_fleet tools tests benchmarks docker charts/files k8s
# A worker a core, with one thread of its own. A worker takes the rest of the other's queue, so that
# fixtures of a module mostly start once.
PARALLEL := OMP_NUM_THREADS=1 $(PYTEST) -n auto --dist worksteal
# Suites of real processes wait for these more than they compute: a worker a core too, by the groups
# of tests/conftest.py. Threads that wait sleep.
GROUPED := OMP_WAIT_POLICY=passive $(PYTEST) -n auto --dist loadgroup
# COVERAGE=1 measures coverage; the ratchet is fail_under in pyproject.toml, over both runs of a target.
FIRST_COVERAGE = $(if $(COVERAGE),--cov --cov-report= --cov-fail-under=0)
LAST_COVERAGE = $(if $(COVERAGE),--cov --cov-append --cov-report=term:skip-covered)
# $(call run-suites,OPTIONS,SUITES): the unit and chart tests, then suites of real processes. The
# second part runs although the first failed, and either fails the target.
run-suites = failed=0; \
	$(PARALLEL) $(1) $(FIRST_COVERAGE) tests/unit tests/charts || failed=1; \
	$(GROUPED) $(1) $(LAST_COVERAGE) $(2) || failed=1; \
	exit $$failed
PROTO_BASELINE := protos/baseline.binpb

##@ Check
.PHONY: check test unit integration e2e coverage lint lint-fast fmt types proto proto-check
.PHONY: buf-breaking buf-baseline browser control-plane prometheus floors
check: setup ## Lint and fast tests: less than a minute on two cores
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint-fast unit-fast

unit-fast:
	$(PARALLEL) -q tests/unit -m "not slow"

test: setup clients ## All tests but the cluster's; fails if some did not run, unless ALLOW_SKIPS=1
	-@$(MAKE) --no-print-directory control-plane
	-@$(MAKE) --no-print-directory browser
	-@$(MAKE) --no-print-directory prometheus
	$(call run-suites,--fail-on-skip --durations=25 --durations-min=5,tests/integration tests/e2e)

unit: setup ## Unit tests: no network
	$(PARALLEL) tests/unit

integration: setup ## Integration tests: real servers on loopback
	$(GROUPED) tests/integration

e2e: setup clients ## End-to-end tests of the fleet on this machine and on a real Kubernetes
	$(PYTEST) tests/e2e
	$(PYTEST) tests/cluster -rs

coverage: COVERAGE := 1
coverage: setup clients ## Unit, chart and integration tests with coverage, against its ratchet
	$(call run-suites,,tests/integration)

floors: setup ## Raise tests/floors.yaml to what runs here (unit, charts, integration, e2e)
	$(call run-suites,--update-floors,tests/integration tests/e2e)

browser: ## Install Chromium, which the tests of the dashboard page run (Debian, as root)
	@command -v chromium >/dev/null || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; }

prometheus: ## Fetch Prometheus and promtool, which the tests of the alerts run (Debian's package, not installed)
	@k8s/local-cluster/cluster prometheus >/dev/null

control-plane: ## Build etcd and kube-apiserver, which the tests of the orchestrator run
	@k8s/local-cluster/cluster control-plane

lint: setup lint-fast buf-breaking ## ruff, mypy, import contracts, buf, yamllint, wire compatibility

lint-fast: generate-check types
	ruff check .
	ruff format --check .
	lint-imports
	clang-format --dry-run -Werror libs/bem/engine/native/kernels/*
	buf lint
	yamllint -s buf.yaml
	yamllint -s -d "{rules: {key-duplicates: enable}}" services/*/service.yaml charts/values.yaml
	yamllint -s -d '{extends: default, rules: {line-length: {max: 130}}}' tests/*.yaml \
		 libs/bem_fleet/acceptance libs/bem_fleet/guard/policy.yaml

types: setup ## mypy --strict
	mypy $(TYPED)

fmt: setup ## Format
	ruff check --fix .
	ruff format .

proto: setup ## Regenerate the code of protos/
	$(PY) tools/gen_protos.py

proto-check: setup ## Fail if generated code is stale
	$(PY) tools/gen_protos.py --check

buf-breaking: setup ## Fail if protos/ breaks clients of the last landed protos
	buf breaking --against $(PROTO_BASELINE)

buf-baseline: setup ## Accept protos/ as the baseline of buf-breaking
	buf build --exclude-source-info -o $(PROTO_BASELINE)
