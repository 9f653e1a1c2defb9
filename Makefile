# `make test` and `make bench`: all they need is python3, a C++ compiler and make.
#
#   PYTHON=python3.12     the interpreter of the virtual environment
#   THRIFTY_CUDA=OFF      leave the CUDA kernels out (ON: stop when nvcc is missing)
#   FULL=1                as CI: CUDA kernels for every architecture, and their race checker
#   TORCH_INDEX=<url>     a package index for torch, such as PyTorch's with CPU-only builds
#   BENCH=... PYTEST=... EXAMPLES=...   arguments of `python -m bench`, pytest, each example
PYTHON ?= python3
FULL   ?= $(CI)
VENV   ?= .venv
BENCH  ?= --quick
PYTEST ?= -q -m 'not slow' -n auto --maxprocesses=4
BIN    := $(VENV)/bin
RUN    := PATH="$(abspath $(BIN)):$$PATH"
PIP    := $(BIN)/python -m pip install -q --disable-pip-version-check

SOURCES   := $(shell find csrc cmake tests -name '*.cpp' -o -name '*.h' -o -name '*.cu*' \
               -o -name '*.cmake' -o -name CMakeLists.txt)
BUILD_DIR  = build/$(shell $(BIN)/python -c 'import sys; print(sys.implementation.cache_tag)')
CXX_FOUND := $(shell command -v $${CXX:-c++} || command -v g++ || command -v clang++)
PYPI_NVCC  = $(VENV)/lib/python3*/site-packages/nvidia/cu13/bin/nvcc
NVCC       = $(firstword $(CUDACXX) $(shell command -v nvcc) \
               $(wildcard $(PYPI_NVCC) /usr/local/cuda/bin/nvcc))
NO_CXX    := no C++ compiler found; install one (Debian: apt-get install g++) or set CXX.
NO_PYTHON := $(PYTHON) is older than 3.10 or lacks its headers or venv \
             (Debian: apt-get install python3-dev python3-venv).
PYTHON_OK := import ensurepip, os, sys, sysconfig; assert sys.version_info >= (3, 10); \
             assert os.path.exists(sysconfig.get_path("include") + "/Python.h")
# Only `make build`, and the wheel that takes its objects.
TESTED    := -C cmake.define.THRIFTY_TESTS=ON \
             -C cmake.define.THRIFTY_TEST_RACES=$(if $(FULL),ON,OFF) \
             -C cmake.define.THRIFTY_WERROR=$(if $(CI),ON,OFF)
BUILT     := $(VENV)/.built-cuda-$(or $(THRIFTY_CUDA),AUTO)$(if $(FULL),-full)
# Without a GPU the kernels are compiled to see that they compile: to PTX, which drivers take.
ARCHS     := $(or $(CUDA_ARCHS),$(if $(FULL)$(shell command -v nvidia-smi),80-real;90a-real,80-virtual))

.PHONY: help build test bench peers readme-table examples sanitize lint docs wheel wheel-check \
        cuda-toolchain gpu-build gpu clean
help:
	@echo "make test            build, run the C++ tests and the Python tests"
	@echo "make bench           build, run the benchmarks (BENCH='ensemble --full' for more)"
	@echo "make peers           libraries to compare with, into $(VENV), for make bench"
	@echo "make examples        the examples, a minute or so each (EXAMPLES= for all of their data)"
	@echo "make readme-table    the figures of README and docs, from bench/results"
	@echo "make sanitize        the core's C++ tests under AddressSanitizer and UBSan"
	@echo "make lint            ruff, clang-format, mypy"
	@echo "make docs            the documentation as a site, in build/site"
	@echo "make wheel           a wheel in dist/ (VARIANT=cpu, cu130, ...: default by the nvcc found)"
	@echo "make wheel-check     the wheels of dist/ in clean environments (PYTHONS=..., TORCHES=...)"
	@echo "make cuda-toolchain  nvcc 13.0 from PyPI into $(VENV), no system CUDA needed"
	@echo "make gpu-build       the native files that 'make gpu' takes to a GPU machine, in $(GPU_FILES)"
	@echo "make gpu             tests, sanitizer and benches on this machine's GPU (GPU='--only tests')"
	@echo "make clean           remove builds ($(VENV) stays)"

$(VENV)/.requirements: requirements/test.txt
	@test -n "$(CXX_FOUND)" || { echo "thrifty: $(NO_CXX)"; exit 1; }
	@$(PYTHON) -c '$(PYTHON_OK)' 2>/dev/null || { echo "thrifty: $(NO_PYTHON)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) 'pip>=23.1'  # knows -C; Debian 12 brings 23.0
	@$(BIN)/python cmake/torch_flavour.py $< $(TORCH_INDEX)
	$(PIP) -r $< $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	@touch $@

$(VENV)/.wheel: requirements/wheel.txt | $(VENV)/.requirements
	$(PIP) -r $<
	@touch $@

# Away from the other packages: it reads the sources and imports nothing of them.
build/docs-venv/.done: requirements/docs.txt
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

docs: build/docs-venv/.done
	NO_MKDOCS_2_WARNING=1 build/docs-venv/bin/mkdocs build --strict --quiet
	@echo "thrifty: build/site/index.html"

$(VENV)/.lint: requirements/lint.txt | $(VENV)/.requirements
	$(PIP) -r $<
	@touch $@

# The CuTe headers alone: the package's own dependencies serve its Python generators.
$(VENV)/.cutlass: | $(VENV)/.requirements
	$(PIP) --no-deps nvidia-cutlass==4.2.0.0
	@touch $@

$(VENV)/.no-deps: requirements/no-deps.txt | $(VENV)/.requirements
	$(PIP) --no-deps -r $<
	@touch $@

# Libraries that the benchmarks compare with; one that cannot be had here is left out with a line.
peers: $(VENV)/.no-deps
	@grep -v '^#' requirements/peers.txt | while read -r package; do \
	  $(PIP) --no-deps "$$package" || echo "thrifty: no $$package; its rows will be skipped"; done

ifneq ($(THRIFTY_CUDA),OFF)
ifneq ($(NVCC),)
CUTLASS := $(VENV)/.cutlass
endif
endif

# Editable: Python files are used where they are, so only native sources make it run again.
$(BUILT): $(VENV)/.requirements $(CUTLASS) $(SOURCES) CMakeLists.txt pyproject.toml
	@echo "thrifty: building, some minutes the first time"
	$(RUN) $(PIP) --no-build-isolation --no-deps $(TESTED) \
	  -C "cmake.define.THRIFTY_CUDA_ARCHS=$(ARCHS)" -e .
	@rm -f $(VENV)/.built-cuda-*
	@touch $@

build: $(BUILT)
	@cat $(BUILD_DIR)/cuda.txt

# Passive: workers share the cores, and threads that spin while they wait would take them.
test: build $(VENV)/.no-deps
	$(RUN) ctest --test-dir $(BUILD_DIR) --output-on-failure -j2 --no-tests=ignore
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest $(PYTEST) tests

# The later --json and --plot of BENCH count.
bench: build $(VENV)/.no-deps
	$(BIN)/python -m bench --json build/bench/run.json --plot build/bench $(BENCH)

readme-table:
	$(BIN)/python -m bench.tables

# Every script takes --quick and --plot.
EXAMPLES ?= --quick
examples: build $(VENV)/.no-deps
	@mkdir -p build/examples
	@for script in $$(grep -l '^if __name__ ==' examples/*.py); do \
	  name=$$(basename $$script .py); echo "=== $$script $(EXAMPLES)"; \
	  $(BIN)/python $$script $(EXAMPLES) --plot build/examples/$$name.png || exit 1; \
	  test -s build/examples/$$name.png || { echo "thrifty: $$script made no picture"; exit 1; }; \
	done; ls -l build/examples/*.png

# The C++ tests of the core once more, with the instruction sets that this machine lacks as twins.
sanitize: $(VENV)/.requirements
	$(RUN) cmake -S . -B build/sanitize -G Ninja -Wno-dev -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	  -DTHRIFTY_TESTS=ON -DTHRIFTY_SANITIZE=ON -DTHRIFTY_CUDA=OFF -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
	  -DCMAKE_PREFIX_PATH=$$($(BIN)/python -m pybind11 --cmakedir)
	$(RUN) cmake --build build/sanitize --target core_tests
	$(RUN) ctest --test-dir build/sanitize/tests/core --output-on-failure -j2

lint: $(VENV)/.lint
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy

# VARIANT: cpu, or cu130 and the like, which only that nvcc builds. THRIFTY_PYTHONS: see
# cmake/pythons.py. Newer GPUs than those named compile the sm_80 kernels from their PTX.
# SAME_TREE=1 takes the objects of `make build`, which must have had the same CUDA_ARCHS.
VARIANT        ?= $(if $(and $(filter-out OFF,$(or $(THRIFTY_CUDA),AUTO)),$(NVCC)),cu$(shell \
                    $(NVCC) --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1\2/p'),cpu)
THRIFTY_PYTHONS ?= all
NOT_OURS        = libtorch.so libtorch_cpu.so libtorch_cuda.so libc10.so
WHEEL_DIR       = build/wheel-$(VARIANT)
WHEEL_BUILD     = $(if $(SAME_TREE),$(BUILD_DIR),$(WHEEL_DIR))
wheel: $(VENV)/.requirements $(VENV)/.wheel $(CUTLASS)
	rm -rf $(WHEEL_DIR)
	$(RUN) THRIFTY_LOCAL_VERSION=$(VARIANT) THRIFTY_PYTHONS="$(THRIFTY_PYTHONS)" \
	  THRIFTY_CUDA=$(if $(filter cpu,$(VARIANT)),OFF,ON) $(BIN)/python -m pip wheel -q \
	  --no-build-isolation --no-deps -C build-dir=$(WHEEL_BUILD) $(if $(SAME_TREE),$(TESTED)) \
	  -C "cmake.define.THRIFTY_CUDA_ARCHS=$(or $(CUDA_ARCHS),80;90a-real)" -w $(WHEEL_DIR)/linux .
	@cat $(WHEEL_BUILD)/pythons.txt $(WHEEL_BUILD)/cuda.txt
	$(RUN) $(BIN)/auditwheel repair $(addprefix --exclude=,$(NOT_OURS)) -w dist \
	  $(WHEEL_DIR)/linux/*.whl
	@ls -l dist/*.whl

# Installs each wheel of dist into clean environments. "none": NumPy alone. STUB_CUDA=1 leaves out
# NVIDIA's libraries that PyPI's torch brings, several GB for each version.
PYTHONS ?= $(PYTHON)
TORCHES ?= 2.10.0 2.11.0 2.13.0 2.14.1 none
wheel-check:
	@for python in $(PYTHONS); do for torch in $(TORCHES); do for wheel in dist/*.whl; do \
	  echo "=== $$wheel, $$python, torch $$torch"; \
	  .ci/try_wheel "$$python" "$$torch" "$$wheel" || exit 1; done; done; done

cuda-toolchain: $(VENV)/.requirements
	$(PIP) "cuda-toolkit[nvcc,cudart,crt,nvvm,cccl]==13.0.*"
	@rm -f $(VENV)/.built-cuda-*
	@$(PYPI_NVCC) --version | tail -2

# The op libraries serve every torch from 2.10 on and every Python: build where nvcc is, carry
# $(GPU_FILES) along, run where the GPU is. `make gpu` uses that machine's own Python and torch.
GPU_FILES := build/gpu
gpu-build: $(VENV)/.requirements $(CUTLASS)
	$(RUN) cmake -S . -B build/gpu-cmake -G Ninja -Wno-dev -DCMAKE_BUILD_TYPE=Release \
	  -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DTHRIFTY_CUDA=ON -DTHRIFTY_TESTS=ON \
	  -DTHRIFTY_GPU_TESTS=ON -DCMAKE_PREFIX_PATH=$$($(BIN)/python -m pybind11 --cmakedir)
	$(RUN) cmake --build build/gpu-cmake \
	  --target thrifty_ops_cpu thrifty_ops_cuda _native hostcuda_device
	mkdir -p $(GPU_FILES)
	find build/gpu-cmake -name 'libthrifty_ops_*.so' -o -name '_native*.so' \
	  -o -name hostcuda_device -type f | xargs -I{} cp {} $(GPU_FILES)

gpu:
	$(PYTHON) tests/gpu/run.py $(if $(wildcard $(GPU_FILES)/*.so),--libraries $(GPU_FILES)) $(GPU)

clean:
	rm -rf build dist $(VENV)/.built-cuda-*
