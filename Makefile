# make demo   match two bundled photos          make test          run the tests
# make check  everything that CI runs           make browser-test  test the web demo in Chromium
# make docs   build the documentation (site/)   make package       build wheel and sdist (dist/) and try both
# make clean  remove what make made             make screenshots   take the documentation's pictures of the web demo
# The first run creates .venv; the others only use it.

# The first Python of 3.11 or newer that can create virtual environments.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$python; exit; }; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TEST_OPTIONS ?=

CHROMIUM := $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))

.PHONY: demo test check lint docs package browser-test screenshots clean

demo: .venv/installed
	$(BIN)/python demo.py

test: .venv/installed-dev
	$(BIN)/python -m pytest $(TEST_OPTIONS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

package: .venv/installed-dev
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/python package_tests/without_pytorch.py dist
	$(BIN)/python package_tests/install.py dist

ifdef CHROMIUM
browser-test: .venv/installed-dev
	$(BIN)/python -m pytest browser_tests
else
browser-test:
	@echo "browser-test: left out, as there is no Chromium (Debian: apt-get install chromium)"
endif

screenshots: .venv/installed-dev
	$(BIN)/python docs/screenshots.py

check: lint docs package browser-test test

clean:
	rm -rf .venv demo_matches.png build dist site

.venv/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with venv found; set PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	touch $@

.venv/installed: .venv/python pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) -e ".[colmap,demo,eval,export,hub,onnx,scale,train]" --group dev --group docs
	touch $@
