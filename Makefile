# make demo      installs into .venv and trains one network with fused and with eager routers
# make test      installs into .venv and runs the tests; `make test-all` adds the slow ones
# make lint      static checks: ruff, mypy, clang-format
# make self-test environment report and a check of every backend that works here
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
CSRC := $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh)
SHIM := $(wildcard tests/shim/*.h tests/shim/*.cpp tests/shim/cuda/*.cuh)

.PHONY: demo test test-all lint self-test install clean
.DELETE_ON_ERROR:

demo: install
	$(RUN) -m models.demo

test: install
	$(RUN) -m pytest -m "not slow"

test-all: install
	$(RUN) -m pytest

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CSRC) $(SHIM) benchmarks/floor.cpp

self-test: install
	$(RUN) -m mpkernels

install: $(INSTALLED)

# torch comes first and the build uses it: an isolated build would download a second one.
$(INSTALLED): pyproject.toml setup.py $(CSRC)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) must be Python 3.10 or newer; choose one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@command -v "$${CXX:-c++}" >/dev/null || echo "warning: no C++ compiler ($${CXX:-c++}):" \
	  "the package will run on its eager definition; on Debian and Ubuntu: apt install g++" >&2
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install torch torchvision 'setuptools>=77' ninja numpy
	$(RUN) -m pip install --no-build-isolation -e '.[models,test]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info mpkernels/*.so mpkernels/build.json
