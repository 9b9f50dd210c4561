# What a person and CI run. EXTRA and PYTHON can be set: make test EXTRA=cpu PYTHON=python3.12
# So can what pytest is told besides: make test PYTEST='-v tests/test_scan.py'
export PYTHONSAFEPATH := 1
# Benchmarks import ONNX Runtime by themselves, see import_onnxruntime in audit/forward.py.
export ORT_DISABLE_TELEMETRY := 1

PYTHON ?= python3
VENV ?= .venv
EXTRA ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check

# What make bench writes, and what make bench-compare reads beside BASE.
NEW ?= .benchmarks/latest.json

# What make soak-memory scans, and within what: gigabytes and a limit.
SOAK_MEMORY ?= 50 1GiB

# How often make soak kills scans, and exports, beyond every step of each.
KILLS ?= 1000

# Where the tutorial's training images are, or are downloaded to.
MNIST ?= mnist

# How many mutated files make soak reads, and how many seconds of each kind Atheris makes up.
MUTATIONS ?= 20000
GUIDED ?= 60

.PHONY: scan tutorial nightly pictures test soak soak-memory lint types bench bench-compare clean

scan: $(VENV)/.run mnist.h5
	$(VENV)/bin/audit scan mnist.h5 --eps 0.1

mnist.h5: $(VENV)/.run
	$(VENV)/bin/audit data mnist -o $@

tutorial: $(VENV)/.tutorial mnist-train.h5 mnist.h5
	awk '/^```sh$$/ {p = 1; next} /^```/ {p = 0} p' docs/tutorial.md | PATH="$(abspath $(VENV))/bin:$$PATH" bash -euxo pipefail

nightly: $(VENV)/.tutorial mnist-train.h5 mnist.h5 mnist-all.h5
	awk '/^```sh$$/ {p = 1; next} /^```/ {p = 0} p' docs/nightly.md | PATH="$(abspath $(VENV))/bin:$$PATH" bash -euxo pipefail

pictures: $(VENV)/.dev nightly
	PYTHONPATH=tests $(VENV)/bin/python docs/pictures/nightly.py nightly docs/pictures

mnist-all.h5: $(VENV)/.run
	$(VENV)/bin/audit data mnist --from $(MNIST) --download --split all -o $@

mnist-train.h5: $(VENV)/.run
	$(VENV)/bin/audit data mnist --from $(MNIST) --download --split train -o $@

test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest $(PYTEST)

soak: $(VENV)/.dev
	PYTHONPATH=tests $(VENV)/bin/python tests/soak.py --mutations $(MUTATIONS)
	PYTHONPATH=tests $(VENV)/bin/python tests/test_kill.py $(KILLS) 0
	PYTHONPATH=tests $(VENV)/bin/python tests/test_faults.py
	PYTHONPATH=tests $(VENV)/bin/python tests/test_bundle_writer.py $(KILLS)
	PYTHONPATH=tests $(VENV)/bin/python tests/fuzz_atheris.py --seconds $(GUIDED)

soak-memory: $(VENV)/.dev
	PYTHONPATH=tests $(VENV)/bin/python tests/soak_memory.py $(SOAK_MEMORY)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.dev
	$(VENV)/bin/mypy

bench: $(VENV)/.dev
	mkdir -p $(dir $(NEW))
	$(VENV)/bin/python -m pytest benchmarks --benchmark-enable --benchmark-json=$(NEW) --timeout=3600 -o faulthandler_timeout=0
	PYTHONSAFEPATH= $(VENV)/bin/python -m benchmarks.table $(NEW)

bench-compare: $(VENV)/.dev
	PYTHONSAFEPATH= $(VENV)/bin/python -m benchmarks.compare $(or $(BASE),$(error BASE=path.json is missing: the earlier run)) $(NEW)

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e '.[$(EXTRA)]'
	touch $@

$(VENV)/.tutorial: $(VENV)/.run
	$(PIP) install -c constraints.txt -e '.[$(EXTRA),lightning]'
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install -c constraints.txt -e '.[$(EXTRA),dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info mnist.h5 mnist-train.h5 mnist-all.h5 mnist.findings.h5 tutorial nightly
