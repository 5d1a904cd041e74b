# make demo   match two bundled photos          make test          run the tests
# make check  everything that CI runs           make browser-test  test the web demo in Chromium
# make docs   build the documentation (site/)   make package       build, check and try wheels and sdist (dist/)
# make fuzz   look for inputs that break it     make screenshots   take the documentation's pictures of the web demo
# make audit  known vulnerabilities             make locked        install the very files of requirements.lock
# make clean  remove what make made             make lock          write requirements.lock anew
# The first run creates .venv; the others only use it.

# The first Python of 3.11 or newer that can create virtual environments.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$python; exit; }; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# As many tests at a time as there are cores, each with one thread; TEST_OPTIONS="-n 0 -x tests/test_model.py" for one.
TEST_OPTIONS ?= -n auto --dist worksteal

CHROMIUM := $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))

FUZZ_SECONDS ?= 60
FUZZ_JOBS ?= 1

.PHONY: audit demo test check lint docs package browser-test screenshots clean fuzz fuzz-short lock locked

demo: .venv/installed
	$(BIN)/python demo.py

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TEST_OPTIONS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

package: .venv/installed-dev
	rm -rf dist sbom
	$(BIN)/python -m build --quiet
	$(BIN)/python package_tests/without_pytorch.py dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	$(BIN)/python package_tests/install.py dist sbom

ifdef CHROMIUM
browser-test: .venv/installed-dev
	$(BIN)/python -m pytest browser_tests
else
browser-test:
	@echo "browser-test: left out, as there is no Chromium (Debian: apt-get install chromium)"
endif

screenshots: .venv/installed-dev
	$(BIN)/python docs/screenshots.py

check: lint docs package browser-test fuzz-short test

fuzz: .venv/installed-fuzz
	$(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS) --jobs $(FUZZ_JOBS)

# The same inputs each time, as CI should fail by a change alone.
fuzz-short: .venv/installed-fuzz
	$(BIN)/python -m fuzz --runs 80 --jobs 2

# For all platforms and Pythons, without PyTorch and what it alone brings.
lock: .venv/installed-lock
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --group docs --universal --python-version 3.11 --no-config \
		--generate-hashes -c constraints.txt --override .ci/without_torch.txt --custom-compile-command "make lock" \
		--default-index https://pypi.org/simple --quiet -o requirements.lock

locked: .venv/python
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(INSTALL) torch
	$(INSTALL) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check

# Strict, as otherwise what PyPI says nothing about counts as safe.
audit: .venv/installed-lock
	$(BIN)/pip-audit --strict --require-hashes --disable-pip -r requirements.lock

clean:
	rm -rf .venv demo_matches.png build dist sbom site

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

.venv/installed-fuzz: .venv/installed-dev
	$(INSTALL) --group fuzz
	touch $@

.venv/installed-lock: .venv/python
	$(INSTALL) --group lock
	touch $@
