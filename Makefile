# What a person and CI run. EXTRA and PYTHON can be set: make test EXTRA=cpu PYTHON=python3.12
export PYTHONSAFEPATH := 1

PYTHON ?= python3
VENV ?= .venv
EXTRA ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: scan test lint types bench clean

scan: $(VENV)/.run mnist.h5
	$(VENV)/bin/audit scan mnist.h5 --eps 0.1

mnist.h5: $(VENV)/.run
	$(VENV)/bin/audit data mnist -o $@

test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.dev
	$(VENV)/bin/mypy

bench: $(VENV)/.dev
	$(VENV)/bin/python -m pytest benchmarks --benchmark-enable

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e '.[$(EXTRA)]'
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install -c constraints.txt -e '.[$(EXTRA),dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info mnist.h5 mnist.findings.h5
