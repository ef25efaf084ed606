# Each target sets itself up: a virtual environment in .venv with everything from pyproject.toml.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test check bench image-test clean
.DELETE_ON_ERROR:

run: $(READY)  ## the main job: images in, deployed classifier out, on this machine
	$(BIN)/python run_pipeline.py run

test: $(READY)  ## every test
	$(BIN)/python -m pytest

check: $(READY)  ## style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=steps $(BIN)/lint-imports

bench: $(READY)  ## the figures of the README
	$(BIN)/python benchmarks/runner_overhead.py
	$(BIN)/python benchmarks/debugger_overhead.py
	$(BIN)/python benchmarks/extract.py

image-test: $(READY)  ## the contract inside both images; BASE_IMAGE and IMAGE_TOOL may be set
	IMAGE_TEST=1 $(BIN)/python -m pytest -n 0 tests/images

clean:  ## forget the environment and everything that ran on this machine
	-[ -x $(BIN)/python ] && $(BIN)/python run_pipeline.py teardown --yes
	rm -rf $(VENV) .local

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
