# The verbs of Malbox. `make` alone prints them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
unexport PYTHONPATH

STATE = .malbox
PYTHON = $(STATE)/venv/bin/python
OPEN_PYTHON = ./deploy/python.sh
MALBOX = $(STATE)/bin/malbox
BOOTSTRAP = ./deploy/bootstrap.sh >/dev/null
BOOTSTRAP_DEV = ./deploy/bootstrap.sh --dev >/dev/null
ALONE = tests/unit tests/contracts
# What needs nothing but a processor: these tests run on every one at once, before those that share servers and guests.
LINTED = contracts services guest malbox cli deploy examples tests
export PYTHONDONTWRITEBYTECODE = 1

.PHONY: help run up down logs demo test check bench simulate prove promises image docs lock proto

help: ## name every verb
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: export SAMPLE := $(value SAMPLE)
run: ## analyse a file: make run SAMPLE=path (sets up and starts everything first)
	@[[ -n "$$SAMPLE" ]] || { echo 'usage: make run SAMPLE=path' >&2; exit 2; }
	@[[ -f "$$SAMPLE" ]] || { echo "make run: no such file: $$SAMPLE" >&2; exit 2; }
	@$(BOOTSTRAP)
	@$(MALBOX) up
	@$(MALBOX) submit --wait -- "$$SAMPLE"

up: ## set up what is missing and start everything
	@$(BOOTSTRAP)
	@$(MALBOX) up

down: ## stop everything that `up` started
	@$(BOOTSTRAP)
	@$(MALBOX) down

logs: ## follow the logs of all processes
	@tail --lines=20 --follow=name --retry $(STATE)/log/*.log

demo: ## analyse a harmless sample that shows what Malbox sees
	@$(BOOTSTRAP)
	@$(MALBOX) up
	@$(PYTHON) -m tests.acceptance.demo_sample "$(STATE)/scratch/demo.sh"
	@$(MALBOX) submit --wait "$(STATE)/scratch/demo.sh"

test: ## the checks and every tier of tests; a skipped test is a failure
	@$(BOOTSTRAP_DEV)
	@$(MAKE) check
	@MALBOX_NO_SKIPS=1 $(OPEN_PYTHON) -m pytest --numprocesses=auto $(ALONE)
	@MALBOX_NO_SKIPS=1 $(OPEN_PYTHON) -m pytest --durations=40 --durations-min=5 $(addprefix --ignore=,$(ALONE))

check: ## style, types and import rules
	@$(BOOTSTRAP_DEV)
	@$(PYTHON) -m ruff check $(LINTED)
	@$(PYTHON) -m ruff format --check --quiet $(LINTED)
	@$(PYTHON) -m mypy
	@$(STATE)/venv/bin/lint-imports

bench: ## measure, and compare with the budgets
	@$(BOOTSTRAP_DEV)
	@$(OPEN_PYTHON) -m tests.bench

simulate: ## all services in one process, with faults: make simulate SEEDS=n START=s
	@$(BOOTSTRAP_DEV)
	@$(PYTHON) -m tests.simulation --seeds "$(or $(SEEDS),100)" --start "$(or $(START),1)"

prove: ## every long proof: 10 000 seeds, 200 crashes, faults of the servers (hours)
	@$(BOOTSTRAP_DEV)
	@$(OPEN_PYTHON) -m tests.prove

promises: ## which test holds which promise
	@$(BOOTSTRAP_DEV)
	@$(PYTHON) -m tests.promises

image: ## build the guest image if its recipe or the agent has changed
	@$(BOOTSTRAP)
	@PYTHONPATH="$(STATE)/app" MALBOX_UV="$(STATE)/bootstrap/bin/uv" $(PYTHON) -P -m guest.images.build linux --out "$(STATE)/images/linux"

docs: ## generate the reference documents from the code
	@$(BOOTSTRAP_DEV)
	@$(PYTHON) -m deploy.docs

lock: ## resolve requirements.in and requirements-dev.in into the locks
	@$(BOOTSTRAP)
	@for name in requirements requirements-dev; do \
	  constraint=(); [[ $$name == requirements ]] || constraint=(--constraint requirements.lock); \
	  "$(STATE)/bootstrap/bin/uv" pip compile --quiet --no-config --python /usr/bin/python3 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url "$${constraint[@]}" "$$name.in" --output-file "$$name.lock"; \
	done

proto: ## generate the Python of the guest's protocol
	@$(BOOTSTRAP_DEV)
	@$(PYTHON) -m deploy.proto
