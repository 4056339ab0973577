# Every target makes sure of what it needs first: the virtual environment, and the test cluster's tools where they are used.
.DEFAULT_GOAL := help
SHELL := bash

PY := .venv/bin/python
BIN := .venv/bin
PYTEST := $(PY) -m pytest $(PYTEST_ARGS)
PARALLEL := -n 4 --dist worksteal
CONTROL_PLANES ?= 3
SIDE_BY_SIDE := -n $(CONTROL_PLANES) --dist loadfile --no-loadscope-reorder

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv
venv:
	@tools/bootstrap.sh

.PHONY: control-plane
control-plane: venv
	@$(PY) -m testing.cluster.build --control-plane

.PHONY: tools
tools: venv
	@$(PY) -m testing.cluster.build

.PHONY: build
build: tools ## Make the virtual environment and build the test cluster's tools

.PHONY: demo
demo: control-plane ## Show Niyanta at work on a real Kubernetes control plane
	@$(PY) -m demo.main

.PHONY: picture
picture: control-plane ## Show the demo, and draw it into docs/images/demo.svg
	@$(PY) -m demo.main --picture docs/images/demo.svg

.PHONY: kubectl-page
kubectl-page: control-plane ## Write docs/kubectl.md: kubectl's commands and answers on a real control plane
	@$(PY) -m demo.kubectl_page

.PHONY: up
up: control-plane ## Leave an environment running: cluster, Postgres, chart, one operator, REST door; print what to type
	@$(PY) -m demo.up

.PHONY: down
down: venv ## Remove the environment of `make up`
	@$(PY) -m demo.down

.PHONY: test
test: venv lint tools ## Lint, then every test: those without a cluster, then those on control planes, side by side
	@$(PYTEST) -m "not e2e and not keda and not oldest" $(PARALLEL)
	@$(PYTEST) -m e2e $(SIDE_BY_SIDE)

.PHONY: check
check: lint unit ## Lint, types and the tests without I/O, in under two minutes

.PHONY: unit
unit: venv ## Tests without I/O
	@$(PYTEST) -m unit $(PARALLEL)

.PHONY: store
store: venv ## Tests against an embedded Postgres
	@$(PYTEST) -m store $(PARALLEL)

.PHONY: process
process: venv ## Tests of `niyanta` processes on an embedded Postgres
	@$(PYTEST) -m process $(PARALLEL)

.PHONY: e2e
e2e: tools ## Tests against real Kubernetes control planes, three side by side (CONTROL_PLANES)
	@$(PYTEST) -m e2e $(SIDE_BY_SIDE)

.PHONY: poison
poison: tools ## Long forms of the containment tests: the whole corpus, two tenants, ten minutes of hypothesis
	@NIYANTA_POISON_SECONDS=600 $(PYTEST) -m poison
	@NIYANTA_POISON=1 $(PYTEST) e2e/containment -s

.PHONY: e2e-keda
e2e-keda: venv ## Tests against KEDA and prometheus-adapter; building them takes 12 minutes, so `make test` leaves them out
	@$(PY) -m testing.cluster.build --keda
	@$(PYTEST) -m keda

.PHONY: e2e-oldest
e2e-oldest: venv ## Wrong manifests against the oldest supported API server; building it takes minutes
	@$(PY) -m testing.cluster.build --oldest
	@$(PYTEST) -m oldest

.PHONY: bench
bench: control-plane ## Benchmarks: a table on the screen, JSON in bench/results/
	@$(PY) -m bench

.PHONY: template-schema
template-schema: control-plane ## Extract the schema of pod templates from the test cluster's API server
	@$(PY) -m testing.cluster.template_schema

.PHONY: crds
crds: venv ## Write crds/ from the models
	@$(BIN)/niyanta crds --out crds

.PHONY: freeze-crds
freeze-crds: crds ## Before VERSION is tagged: keep a copy of its CRDs, from which upgrade tests start
	@[[ "$(VERSION)" =~ ^v[0-9]+\.[0-9]+\.[0-9]+ ]] || { echo "make freeze-crds VERSION=v1.2.3" >&2; exit 2; }
	@if git rev-parse --quiet --verify "refs/tags/$(VERSION)" >/dev/null; then echo "$(VERSION) is tagged: its copy stays" >&2; exit 1; fi
	@rm -rf "testing/data/crds/$(VERSION)" && cp -r crds "testing/data/crds/$(VERSION)"

.PHONY: docs
docs: crds ## Write what is generated: CRDs, pages of docs/, the chart's schema, README and dashboards
	@$(BIN)/niyanta resource-docs > docs/resources.md
	@$(BIN)/niyanta settings > docs/settings.md
	@$(BIN)/niyanta reference > docs/cli.md
	@$(BIN)/niyanta api-docs > docs/api.md
	@$(BIN)/niyanta metrics-docs > docs/metrics.md
	@$(PY) tools/chart_schema.py
	@$(PY) tools/chart_readme.py
	@$(PY) tools/dashboards/generate.py

.PHONY: lint
lint: venv ## Style, types, layers, YAML, Dockerfile, and that crds/ matches the models
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@if compgen -G 'examples/*' >/dev/null; then $(BIN)/yamllint --strict examples hpa; fi
	@$(BIN)/niyanta crds --check
	@if [ -f Dockerfile ]; then $(BIN)/hadolint Dockerfile; fi

.PHONY: clean
clean: ## Remove the environment and everything built in this checkout (the user-level tool cache stays)
	@if [ -x $(PY) ]; then $(PY) -m demo.down || true; fi
	rm -rf .cache .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
