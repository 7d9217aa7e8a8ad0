# The two commands of the README:  make quickstart   make test
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test test-slow lint docs reliability licences audit newest pythons gpu-bundle clean help

help:
	@echo "make quickstart   install into $(VENV) and run the quickstart suite (no GPU, nothing to download)"
	@echo "make test         install what developers need and run the tests"
	@echo "make test-slow    the tests that take longer than a few seconds each"
	@echo "make lint         ruff and mypy"
	@echo "make docs         write the generated pages of docs/ and build the site, strictly and without network"
	@echo "make reliability  kill runs, damage files, draw bad input, and write what came of it into docs/reliability.md"
	@echo "make licences     list what is installed, with licences, in docs/dependencies.md"
	@echo "make audit        look the pinned versions up among known vulnerabilities (needs a network)"
	@echo "make newest       the tests with the newest torch, torchvision, timm and NumPy, in an environment of their own"
	@echo "make pythons      the quickstart and some tests on each Python from 3.11 on that is found"
	@echo "make gpu-bundle   gather what clbench needs beside torch, timm and transformers, for a machine without network"
	@echo "make clean        remove $(VENV) and caches; runs stay"

quickstart: $(VENV)/.installed
	$(BIN)/clbench suite quickstart

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/generate.py
	$(BIN)/sphinx-build -q --fail-on-warning --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

reliability: $(VENV)/.installed-dev
	$(BIN)/python tests/faults/report.py
	$(BIN)/python docs/generate.py

licences: $(VENV)/.installed-dev
	$(BIN)/python docs/licences.py

audit: $(VENV)/.installed-dev
	$(BIN)/python -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

newest:
	.ci/newest

pythons:
	.ci/pythons

gpu-bundle: $(VENV)/.installed-dev
	.ci/gpu-bundle $(BIN)/python $(VERSION) $(THERE)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "clbench needs Python 3.11 or later; $$($(PYTHON) --version) was found. Use: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing clbench into $(VENV) …"
	$(PIP) -e '.[tune]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing clbench and its development tools into $(VENV) …"
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
