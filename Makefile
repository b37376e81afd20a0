# `make help` explains itself from the ## comments below.

PYTHON        ?= $(shell command -v python3.11 || command -v python3)
VENV          ?= .venv
# Which build of torch to install, as uv's --torch-backend names it: cpu, cu130, auto, ... Empty leaves
# the choice to pip, whose default on Linux is a CUDA build of several gigabytes.
TORCH         ?=
# What `make reproduce` runs: a corpus, and the folder that holds it.
CORPUS        ?= signed-weather
ROOT          ?=

# A worker per core, each about a gigabyte; a file's tests share what they make. In order of name:
# by number of tests, files of few long ones would come last, and one core would wait for them.
PARALLEL := --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

BIN   := $(VENV)/bin
STAMP := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help setup reproduce experiments check test lint format docs pictures bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\n  CORPUS=%s  ROOT=%s  VENV=%s  TORCH=%s\n' \
		'$(CORPUS)' '$(ROOT)' '$(VENV)' '$(TORCH)'

setup: $(STAMP) ## create .venv with the versions of requirements.lock

# torch first: every later package then finds the build this machine wants already there.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spamo-cache needs Python 3.11 or newer")'
	@echo "installing into $(VENV): some minutes where torch has to be downloaded"
	@if [ -z '$(TORCH)' ] && [ "$$(uname -s)" = Linux ] && [ ! -e /dev/nvidiactl ]; then \
		echo "no NVIDIA GPU found: if pip now fetches the CUDA build of torch, gigabytes for nothing,"; \
		echo "stop it (Ctrl-C) and run  make setup TORCH=cpu"; fi
	@$(PYTHON) -m venv $(VENV)
	@$(if $(TORCH),$(BIN)/python -m pip install --disable-pip-version-check --quiet uv && \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend '$(TORCH)', \
		$(BIN)/python -m pip install --disable-pip-version-check --quiet) \
		$(shell grep -E '^(torch|torchvision)==' requirements.lock)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet \
		--constraint requirements.lock --editable '.[extract,remote,dev,docs]'
	@touch $@

reproduce: setup ## all stages on the bundled corpus; CORPUS=phoenix14t ROOT=/data/... on a real one
	$(BIN)/spamo-cache reproduce $(CORPUS) $(if $(ROOT),--root '$(ROOT)')

# The bundled corpus's own settings are for a single good run; these are for over a hundred within
# an hour of two idle cores. Other corpora keep theirs.
SMALL := align.steps=60 translate.steps=150 translate.eval_every=75

experiments: setup ## every experiment of the paper and a page of them; QUICK=1 for one seed of each
	$(BIN)/spamo-cache reproduce $(CORPUS) --all $(if $(ROOT),--root '$(ROOT)') \
		$(if $(filter signed-weather,$(CORPUS)),$(SMALL:%=--set %)) $(if $(QUICK),--quick)

check: setup ## unit tests, a few minutes at most: before every commit
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow'

test: setup ## the whole suite, warnings as errors
	$(BIN)/python -m pytest $(PARALLEL)

lint: setup ## ruff (rules and format) and mypy --strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup ## let ruff sort imports and lay the code out
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: setup ## the documentation as a site in site/; a broken link or anchor is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open site/index.html"

pictures: setup ## the pictures of the README, from a run of the bundled corpus; needs Chromium
	$(BIN)/python docs/pictures.py

bench: setup ## every script in benchmarks/, one claim of the README each
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

lock: ## renew requirements.lock from the newest versions that pyproject.toml allows
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet torch torchvision
	$(VENV)-lock/bin/python -m pip install --quiet --editable '.[extract,remote,dev,docs]'
	$(VENV)-lock/bin/python -m pip list --format=freeze --exclude-editable \
		| sed -E -e 's/\+.*//' -e '/^(pip|nvidia-.*|cuda-.*|triton)==/d' > requirements.lock
	rm -rf $(VENV)-lock

clean: ## remove .venv, caches and build output; corpora, features and runs stay
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
