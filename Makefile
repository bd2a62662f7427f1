# make demo, make test and make quality need Python >= 3.11 and make; they set up .venv themselves.
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
BIN := $(VENV)/bin
PYTEST_ARGS ?=
BENCH_ARGS ?=
# Tests of one file run in one process, since they share what is expensive to set up.
PYTEST := $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=8 --dist=loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # two installs into one .venv at once would trip over each other
# Two builds of a commit are the same to the byte.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 315532800)
.PHONY: help demo test test-slow test-oldest test-trackers stress coverage bench quality lint format types layers documents style docs figures site dist audit release-check hub-publish clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## features and nearest neighbours of sample images, written to demo/
	$(BIN)/cassle-zoo demo -o demo

test: $(VENV)/.installed-dev ## run the quick tests on all cores
	$(PYTEST) $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev ## run the slow tests: many processes, faults, fuzzing, the wheel
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-oldest: $(OLDEST)/.installed $(VENV)/.installed-dev ## run the quick tests with the oldest dependencies allowed
	CASSLE_ZOO_OLAH_PYTHON=$(abspath $(BIN)/python) $(OLDEST)/bin/python -m pytest --numprocesses=logical \
	  --maxprocesses=8 --dist=loadfile $(PYTEST_ARGS)

test-trackers: $(VENV)/.installed-dev ## run the tests of W&B, MLflow and trackio with their packages
	$(BIN)/python -m pip install --quiet --editable '.[mlflow,trackio,wandb]'
	$(BIN)/python -m pytest -m "" tests/train/run/test_trackers.py $(PYTEST_ARGS)

stress: $(VENV)/.installed-dev ## run fuzzing and faults for longer (some 10 minutes), show what was lost
	CASSLE_ZOO_FUZZ=1000 CASSLE_ZOO_KILLS=50 CASSLE_ZOO_IMAGES=1000000 $(BIN)/python -m pytest -m slow tests/integration/fuzz tests/integration/stress $(PYTEST_ARGS)

coverage: $(VENV)/.installed-dev ## run all tests and show which lines they leave out
	$(PYTEST) -m "" --cov --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

bench: $(VENV)/.installed-dev ## measure speed beside the peers (half an hour on an idle machine)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks.speed $(BENCH_ARGS)

# One target per check, so that make -k quality shows everything that is wrong at once.
quality: lint format types layers documents ## lint, format, types, layers, fresh generated documents

lint: $(VENV)/.installed-dev ## check the code with ruff
	$(BIN)/ruff check .

format: $(VENV)/.installed-dev ## check the layout of the code with ruff
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## check the types with mypy
	$(BIN)/mypy

layers: $(VENV)/.installed-dev ## check who imports whom
	$(BIN)/python -m pytest -q tests/test_layering.py

documents: $(VENV)/.installed-dev ## check that generated documents are fresh
	$(BIN)/python -m cassle_zoo.hub.cards.model_cards --bundled --check

style: $(VENV)/.installed-dev ## fix what lint and format can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev ## write the generated documents anew
	$(BIN)/python -m cassle_zoo.hub.cards.model_cards --bundled

figures: $(VENV)/.installed-dev ## draw the figures of docs/concepts/ and measure their numbers
	$(BIN)/python -m docs.figures

site: $(VENV)/.installed-dev ## build the documentation into site/; broken links fail
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

dist: $(VENV)/.installed-dev ## build the wheel into dist/ and check it: metadata, content, size
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist
	$(BIN)/python -m pip install --quiet 'twine>=6'
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m pytest -q -m "" tests/integration/test_packaging.py

audit: $(VENV)/.installed ## compare what is installed in .venv with the known vulnerabilities (needs the network); write sbom.json
	$(BIN)/python -m pip install --quiet 'pip-audit>=2.7'
	$(BIN)/python -m pip_audit --local --skip-editable --progress-spinner off --format cyclonedx-json --output sbom.json; \
	  status=$$?; grep -q '"name": *"torch"' sbom.json || { echo "nothing was audited: the package index did not answer about torch" >&2; exit 1; }; \
	  [ $$status -eq 0 ] || $(BIN)/python -m pip_audit --local --skip-editable --progress-spinner off

release-check: ## check that TAG=vX.Y.Z is the version of the package, of CITATION.cff and of the changelog
	$(PYTHON) .ci/release-check '$(TAG)'

hub-publish: $(VENV)/.installed ## upload every released model of the zoo to ORG=NAME on the Hugging Face Hub
	$(BIN)/cassle-zoo hub publish --org '$(ORG)'

clean: ## remove everything that make created
	rm -rf $(VENV) $(OLDEST) build dist demo site sbom.json *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find cassle_zoo train eval hub tests benchmarks docs examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(OLDEST)/.installed: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet -c tests/oldest.txt -e '.[figures,hfds,mat,parquet,tensorboard,tiff,wds]' build \
	  hypothesis lightly mypy onnxruntime onnxscript pytest pytest-xdist scikit-learn 'setuptools>=77' statsmodels
	@touch $@

# A stamp stands only when everything before it succeeded, so a failed install is tried again.
# What is installed with the dev extra includes what the demo needs.
$(VENV)/.installed: pyproject.toml
	@$(MAKE) --no-print-directory venv-python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml
	@$(MAKE) --no-print-directory venv-python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(VENV)/.installed $@

.PHONY: venv-python
venv-python:
	@command -v $(PYTHON) >/dev/null 2>&1 || \
	  { echo "Python >= 3.11 is needed, but there is no '$(PYTHON)': make PYTHON=/path/to/python ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python >= 3.11 is needed, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1): make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  echo "Setting up $(VENV) (a few minutes the first time: PyTorch is large)"; \
	  $(PYTHON) -m venv --clear $(VENV) || { echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; }
