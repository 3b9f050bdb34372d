# Everything sets itself up: all that is needed is Python 3.11+, make and the package index.
VENV   ?= .venv
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
            $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
RUN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help demo ui test lint bench test-all test-lowest format clean

help:            ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*##/make \1\t/p' $(MAKEFILE_LIST)

$(READY): pyproject.toml example_project/pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or make PYTHON=/path/to/python"; exit 1; }
	@echo "setting up $(VENV): a few minutes the first time"
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV) && \
	  VIRTUAL_ENV=$(VENV) uv pip install --quiet -e '.[all]' -e example_project --group dev; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(RUN)/python -m pip install --quiet --upgrade 'pip>=25.1' && \
	  $(RUN)/python -m pip install --quiet -e '.[all]' -e example_project --group dev; \
	fi
	@touch $@

demo: $(READY)   ## from a frame of S3 files to materialized Dagster assets, on real images
	@$(RUN)/python -m example_project.demo

ui: $(READY)     ## the demo, and Dagster's web UI on it
	@$(RUN)/python -m example_project.demo --ui

test: $(READY)   ## the tests (a few minutes)
	$(RUN)/python -m pytest -n auto -m "not slow" --cov --cov-report=term:skip-covered

lint: $(READY)   ## ruff, mypy --strict, the import contracts
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

bench: $(READY)  ## what it costs, beside boto3
	@$(RUN)/python tests/benchmarks/bench.py

format: $(READY) ## let ruff lay out the code
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

test-all: test test-lowest  ## and the slow rest: a browser (Debian: chromium), the lowest versions
	$(RUN)/python -m pip install --quiet --group browser
	$(RUN)/python -m pytest -m slow

test-lowest:     ## the tests on the lowest versions that pyproject.toml allows
	@$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/lowest.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-lowest/bin/python -m pip install --quiet -e '.[all]' -e example_project --group dev -r .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pytest -n auto -m "not slow" -p no:cacheprovider

clean:           ## remove what make made
	rm -rf .venv .venv-lowest .demo build dist
