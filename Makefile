# make demo    train a small model with MetaLR and draw what it did
# make test    run the tests (BACKEND=tensorflow, jax or torch)
# make lint    check style, format and types
# make wheel   build the sdist and the wheel into dist/
# make clean   remove the environment and what was built

PYTHON ?= python3
VENV ?= .venv
BACKEND ?= tensorflow
# The release that the tests are run with. What is served as "torch" may be a
# CUDA build of some GB; for a CPU build, point PIP_EXTRA_INDEX_URL at an index
# of such builds and name one, as in TORCH="torch==2.13.0+cpu".
TORCH ?= torch==2.13.0
# Processes that share the tests; 0 runs them in one.
WORKERS ?= 2
PYTEST_ARGS ?=
DEMO_ARGS ?=

BACKENDS := tensorflow jax torch
ifeq ($(filter $(BACKEND),$(BACKENDS)),)
$(error BACKEND must be one of: $(BACKENDS). Received: BACKEND=$(BACKEND))
endif

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
# An install is repeated only when one of these has changed.
SOURCES := pyproject.toml requirements.txt keras_metalr/version.py

.PHONY: demo test lint wheel install clean

demo: $(VENV)/.installed-demo
	$(BIN)/python scripts/demo.py $(DEMO_ARGS)

test: $(VENV)/.installed-$(BACKEND)
	KERAS_BACKEND=$(BACKEND) $(BIN)/python -m pytest \
		-n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.installed-tensorflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/.installed-tensorflow
	rm -rf dist
	$(BIN)/python -m build

install: $(VENV)/.installed-$(BACKEND)

clean:
	rm -rf $(VENV) build dist

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed-demo: $(VENV)/.created $(SOURCES)
	$(INSTALL) -e ".[plots,data]"
	touch $@

$(VENV)/.installed-tensorflow: $(VENV)/.created $(SOURCES)
	$(INSTALL) -r requirements.txt -e ".[dev]"
	touch $@

$(VENV)/.installed-jax: $(VENV)/.installed-tensorflow
	$(INSTALL) -e ".[jax,meta,bench]"
	touch $@

$(VENV)/.installed-torch: $(VENV)/.installed-tensorflow
	$(INSTALL) "$(TORCH)"
	$(INSTALL) -e ".[torch]"
	touch $@
