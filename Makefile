# Everything from a fresh clone, with Python and make only:
#
#   make demo    train and compare five mixers on the sources of Python's standard library (minutes)
#   make test    the whole suite
#   make lint    style, types of the package, direction of imports
#   make docs    the documentation, in site/
#
# PYTHON chooses the interpreter. TORCH_OPTIONS goes to the installation of torch: on Linux, pip's own choice is the
# build for GPUs unless it is told of an index with the CPU builds.

PYTHON ?= python3
TORCH_OPTIONS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint docs clean

demo: $(VENV)/.package
	$(BIN)/ostinato compare gla mamba2 gated_deltanet min_gru attention --out demo

test: $(VENV)/.test .peers/.unpacked
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) .peers site demo

# torch first: whatever else asks for it then finds the right build in place
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt $(TORCH_OPTIONS) torch
	touch $@

$(VENV)/.package: pyproject.toml $(VENV)/.torch
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.test $(VENV)/.lint $(VENV)/.docs: $(VENV)/.%: pyproject.toml $(VENV)/.torch
	$(PIP) install --constraint constraints.txt --editable '.[$*]'
	touch $@

# independent implementations for the tests of evidence, beside the environment (see tests/peers.txt)
.peers/.unpacked: tests/peers.txt $(VENV)/.torch
	rm -rf .peers
	$(PIP) install --no-deps --target .peers -r tests/peers.txt
	touch $@
