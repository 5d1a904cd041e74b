# make demo   match two bundled photos          make test    run the tests
# make check  everything that CI runs           make clean   remove what make made
# The first run creates .venv; the others only use it.

# The first Python of 3.11 or newer that can create virtual environments.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$python; exit; }; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TEST_OPTIONS ?=

.PHONY: demo test check lint clean

demo: .venv/installed
	$(BIN)/python demo.py

test: .venv/installed-dev
	$(BIN)/python -m pytest $(TEST_OPTIONS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

clean:
	rm -rf .venv demo_matches.png

.venv/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with venv found; set PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	touch $@

.venv/installed: .venv/python pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) -e ".[colmap,demo,eval,train]" --group dev
	touch $@
