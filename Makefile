# `run` and `test` set themselves up: a virtual environment in .venv, with the versions of requirements.lock.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/uv/bin/uv
READY := $(VENV)/.ready
READY_FOR_TESTS := $(VENV)/.ready-for-tests
CHECKS := $(VENV)/checks
READY_FOR_CHECKS := $(CHECKS)/.ready
# PyTorch for Linux brings its CUDA libraries along, in the versions that it names itself; other machines need none.
CUDA := cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
  nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
  nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx triton
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --no-annotate \
  --custom-compile-command "make lock" $(addprefix --no-emit-package ,$(CUDA))
# uv asks where pip is set up to ask: index, links and certificate. Jobs cannot write bytecode: it is compiled here.
AS_PIP := set -a; eval "$$($(BIN)/python -m pip config list | sed -nE \
  "s/^[^=]*\.index-url=/UV_DEFAULT_INDEX=/p; s/^[^=]*\.extra-index-url=/UV_INDEX=/p; \
   s/^[^=]*\.find-links=/UV_FIND_LINKS=/p; s/^[^=]*\.cert=/SSL_CERT_FILE=/p")"; set +a;
INSTALL := $(AS_PIP) VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --compile-bytecode

.PHONY: run test check bench image-test lock clean
.DELETE_ON_ERROR:

run: $(READY)  ## the main job: images in, deployed classifier out, on this machine
	$(BIN)/python run_pipeline.py run

test: $(READY_FOR_TESTS)  ## every test
	$(BIN)/python -m pytest

check: $(READY_FOR_TESTS) $(READY_FOR_CHECKS)  ## style, types, who imports whom, and the templates' security
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=steps $(BIN)/lint-imports
	$(CHECKS)/bin/checkov --skip-download --framework cloudformation --compact --quiet --directory pipeline/aws --directory docs/github

bench: $(READY_FOR_TESTS)  ## the quick ones of the figures in docs/
	$(BIN)/python benchmarks/runner_overhead.py
	$(BIN)/python benchmarks/debugger_overhead.py
	$(BIN)/python benchmarks/extract.py

image-test: $(READY_FOR_TESTS)  ## the contract inside both images; BASE_IMAGE and IMAGE_TOOL may be set
	IMAGE_TEST=1 $(BIN)/python -m pytest -n 0 tests/images

lock: $(READY)  ## the newest versions that pyproject.toml allows
	$(AS_PIP) $(LOCK) --upgrade --output-file requirements.lock pyproject.toml
	$(AS_PIP) $(LOCK) --upgrade --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	$(AS_PIP) $(LOCK) --upgrade --group checks --output-file requirements-checks.lock

clean:  ## forget the environment and everything that ran on this machine
	-[ -x $(BIN)/python ] && $(BIN)/python run_pipeline.py teardown --yes
	rm -rf $(VENV) .local

$(UV):
	@echo "Setting up $(VENV)"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target $(VENV)/uv 'uv>=0.9,<1'

$(READY): requirements.lock pyproject.toml | $(UV)
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --seed --allow-existing --python '>=3.11.4,<3.12' $(VENV)
	@echo "Installing the packages of $<"
	@$(INSTALL) --requirement $< --editable .
	@touch $@

$(READY_FOR_TESTS): requirements-dev.lock $(READY)
	@echo "Installing the packages of $<"
	@$(INSTALL) --requirement $<
	@touch $@

$(READY_FOR_CHECKS): requirements-checks.lock | $(READY)
	@echo "Installing the packages of $<"
	@$(UV) venv --quiet --allow-existing --python $(BIN)/python $(CHECKS)
	@$(AS_PIP) VIRTUAL_ENV=$(CHECKS) $(UV) pip install --quiet --requirement $<
	@touch $@
