.DEFAULT_GOAL := help
SHELL := /bin/bash
UV := $(or $(shell command -v uv),$(CURDIR)/.tools/bin/uv)
RUN := $(UV) run --no-sync
TWO := -n 2 --dist loadfile --no-loadscope-reorder
OUT ?= demo
PYTHON ?= 3.12
# Some images forbid it, and then every process compiles torch and transformers anew: 15 s each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo compare check lint types imports deps pins test test-without-data test-fast bench docs wheelhouse release fmt help

setup: ## Make .venv with all five packages; install uv with pip where it is missing
	@scripts/setup.sh

demo: setup ## The main job, from a cohort to its page: the smallest comparison; MEDS=path takes your own data set
	@$(MAKE) --no-print-directory compare CONFIG=configs/compare/demo.yaml
	$(RUN) ehr-track verify $(OUT)
	$(RUN) ehr-track lineage $(OUT)/results --in $(OUT) $(if $(MEDS),--in $(MEDS))

compare: ## CONFIG=configs/compare/x.yaml, made into OUT: models over tasks; MEDS=path takes your own data set
	@$(UV) sync --quiet --inexact --group compare
	@$(RUN) python -m workflow $(CONFIG) --out $(OUT) $(if $(MEDS),--meds $(MEDS))

check: setup ## All gates and all tests: what CI runs
	@$(MAKE) --no-print-directory --jobs 2 lint types imports deps pins test-without-data
	@$(MAKE) --no-print-directory test

lint: ## Format and lint
	$(RUN) ruff format --check .
	$(RUN) ruff check .

types: ## mypy, strict
	$(RUN) mypy

imports: ## The packages' layers
	$(RUN) lint-imports

deps: ## Each package declares what it imports
	@for p in packages/*; do (cd $$p && $(RUN) deptry --no-ansi src) || exit 1; done

pins: ## Every version that is resolved is pinned
	$(RUN) scripts/pins.py --check

test: ## All tests, those of the built wheels included
	$(RUN) pytest $(TWO)

test-without-data: ## The tests that ask for real data, where there is none: each passes or is left out
	@empty=$$(mktemp -d) && trap 'rmdir "$$empty"' EXIT && \
	EHR_REAL_DATA=$$empty $(RUN) pytest -m real_data packages/*/tests tests

test-fast: ## Without the tests that take more than 5 s
	$(RUN) pytest $(TWO) -m "not slow"

bench: ## The benchmarks, quick
	$(RUN) python benchmarks/tokenize --quick
	$(RUN) python benchmarks/train.py --quick
	$(RUN) python benchmarks/generate.py --quick

docs: setup ## The documentation as a site, build/site
	$(RUN) scripts/docs.py

wheelhouse: setup ## All wheels for machines without a network: PYTHON=3.12 [PACKAGES="ehr-tokenize[desc] ehr-train"]
	$(RUN) scripts/wheelhouse.py --python $(PYTHON) $(PACKAGES)

release: setup ## The wheels and source archives of a release, checked and named, in dist
	$(RUN) scripts/release.py

fmt: ## Mend format and what the linter can
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
