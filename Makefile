# `make run` starts the app, `make test` runs every check; both set up what they need first.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
TORCH_CPU := https://download.pytorch.org/whl/cpu
TRITON := triton==3.8.0
export PIP_DISABLE_PIP_VERSION_CHECK = 1
unexport PYTHONDONTWRITEBYTECODE
MAKEFLAGS += -j2  # packages of Python and of the system come at the same time

.PHONY: run test setup clean

run: $(VENV)/.run $(VENV)/.compiler
	$(BIN)/python -m streamlit run server.py

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

setup: $(VENV)/.test $(VENV)/.browser $(VENV)/.compiler

# Debian splits venv from python3; root gets the missing half.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv --clear $(VENV); }

# PyTorch for CUDA brings the Triton that it goes with; the CPU build has none, and needs one to write code for GPUs that are not there.
# Without an NVIDIA driver the CPU build of torch will do: a fifth of the download. Its index is used when it answers.
# pip would compile one module after another, which is half of its time; what no Python can compile stays as it is.
define install
	@index=; if ! command -v nvidia-smi >/dev/null && $(BIN)/python -c "import urllib.request as r; r.urlopen('$(TORCH_CPU)/', timeout=5)" 2>/dev/null; \
	then index="--extra-index-url $(TORCH_CPU)"; fi; \
	$(BIN)/pip install -q --no-compile -r $(1) $$index
	@if [ "$$(uname -s)" = Linux ] && ! $(BIN)/pip show -q triton 2>/dev/null; then $(BIN)/pip install -q --no-compile $(TRITON); fi
	@$(BIN)/python -m compileall -qq -j 2 $(VENV)/lib || true
endef

$(VENV)/.run: requirements.txt | $(BIN)/python
	$(call install,requirements.txt)
	@touch $@

$(VENV)/.test: requirements-dev.txt requirements.txt requirements-cluster.txt | $(BIN)/python
	$(call install,requirements-dev.txt)
	@touch $(VENV)/.run $@

# Debian's chromium without windows where root can install it, or what is there; Playwright's own elsewhere. One apt-get at a time.
DEBIANS := $(shell command -v chromium-headless-shell || command -v chromium || { [ "$$(id -u)" = 0 ] && command -v apt-get; })
$(VENV)/.browser: | $(VENV)/.compiler $(if $(DEBIANS),,$(VENV)/.test)
	@if command -v chromium-headless-shell >/dev/null; then true; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium-headless-shell fonts-dejavu-core; \
	elif command -v chromium >/dev/null; then true; \
	else $(BIN)/playwright install chromium; fi
	@touch $@

# Fused kernels are compiled from C++ on a CPU, against Python's headers; the sandbox for uploads compiles its filter with libseccomp.
$(VENV)/.compiler: | $(BIN)/python
	@if command -v g++ >/dev/null && $(BIN)/python -c "import ctypes.util as c, os, sysconfig as s; os.stat(s.get_path('include') + '/Python.h'); assert c.find_library('seccomp')" 2>/dev/null; then true; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq --no-install-recommends g++ python3-dev libseccomp2; \
	else echo "Fused kernels need a C++ compiler and Python's headers, uploads need libseccomp (on Debian: sudo apt install g++ python3-dev libseccomp2)."; fi
	@touch $@

clean:
	rm -rf $(VENV)
