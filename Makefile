# On a fresh machine: `make compress` and `make test` do all set-up themselves.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A virtual environment names its own folder in its commands: in a project that was moved or copied it is made anew.
MOVED := $(filter-out $(realpath $(VENV)),$(shell cat $(INSTALLED) 2>/dev/null))

RECIPES := base blocks sparsity codebook quantization everything distillation staged grouped gru vit

.PHONY: anew compress test test-slow recipes $(RECIPES:%=recipe-%) lint ui install lock clean

compress: $(INSTALLED)  ## the main job on the embedded default data
	$(BIN)/kedro run --pipeline compress

test: $(INSTALLED)  ## the default suite (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(INSTALLED)  ## what takes minutes, or needs real data (POCKETPIPE_DATA)
	$(BIN)/python -m pytest -m slow

recipes: $(RECIPES:%=recipe-%)  ## every recipe on embedded data, whole; fails where a budget is not kept

$(RECIPES:%=recipe-%): recipe-%: $(INSTALLED)
	env -u MLFLOW_TRACKING_URI POCKETPIPE_OUTPUT=build/recipes $(BIN)/kedro run --pipeline compress --env $*

lint: $(INSTALLED)  ## style, types, and the rules of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ui: $(INSTALLED)  ## browse the experiments at http://127.0.0.1:5000
	$(BIN)/pocketpipe ui

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml $(if $(MOVED),anew)
	test -z "$(MOVED)" && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	cd $(VENV) && pwd -P > .installed

lock:  ## pin what pyproject.toml allows today
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --dry-run --ignore-installed --report build/lock.json '.[dev]'
	$(PYTHON) .ci/lock.py build/lock.json > requirements.lock

clean:
	rm -rf $(VENV) build
