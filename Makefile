# Everything is set up in .venv on demand: a Python of at least 3.10, a C++ compiler and make are
# all that a fresh machine needs. PYTHON=python3.12 make test chooses another Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
# What the installed package is built from; its Python files are used where they lie.
BUILT_FROM := pyproject.toml CMakeLists.txt $(wildcard native/*.cpp native/*.h)

.DEFAULT_GOAL := help
.PHONY: help demo test check bench sanitize neon pictures clean

help:  ## say what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMPS)/anser  ## fill empty bars of the packaged song
	$(BIN)/anser demo

test: $(STAMPS)/dev  ## run the tests
	$(BIN)/pytest

check: $(STAMPS)/dev  ## format, lint, types, tests: all that a change must pass
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

bench: $(STAMPS)/anser  ## measure the model on this machine; benchmarks/ compares with others
	$(BIN)/anser bench

ENGINE := native/rwkv7.cpp native/kernels.cpp tests/native/fingerprint.cpp
named = -DANSER_NAME=$(1) -DANSER_KERNELS=kernels_$(1)
CXX_FLAGS := -std=c++17 -ffp-contract=off -Wno-psabi -Inative -pthread
ENGINE_FLAGS := $(CXX_FLAGS) $(call named,portable)
ARM := aarch64-linux-gnu-g++ $(CXX_FLAGS) -O2 -static
SANITIZE := -O1 -g -fno-sanitize-recover=all

sanitize:  ## run every instruction set on random models, and the pool, under ASan with UBSan, and TSan
	for kind in address,undefined thread; do \
	  flags="$(SANITIZE) -fsanitize=$$kind"; folder=build/check/$$kind; \
	  cmake -S . -B $$folder -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="$$flags" && \
	  cmake --build $$folder --parallel && \
	  $(CXX) $(CXX_FLAGS) $$flags tests/native/fingerprint.cpp $$folder/librwkv7.a -o $$folder/engine && \
	  $(CXX) $(CXX_FLAGS) $$flags tests/native/pool.cpp -o $$folder/pool && \
	  $$folder/engine && $$folder/pool || exit 1; done

neon:  ## check under qemu that the engine on ARM gives the same bits as here
	@mkdir -p build/check
	$(CXX) $(ENGINE_FLAGS) -O2 -mavx2 -mfma -mf16c $(ENGINE) -o build/check/avx2
	$(ARM) $(call named,dotprod) -march=armv8.2-a+dotprod -c native/kernels.cpp \
	  -o build/check/dotprod.o
	$(ARM) $(call named,portable) -DANSER_DOTPROD $(ENGINE) build/check/dotprod.o -o build/check/neon
	build/check/avx2 > build/check/avx2.txt
	for set in portable dotprod; do \
	  qemu-aarch64 build/check/neon $$set | diff build/check/avx2.txt - || exit 1; done
	@echo "the same bits"

pictures: $(STAMPS)/anser  ## draw the pictures of the README anew
	$(BIN)/anser demo --output build/pictures
	mkdir -p docs/img
	cp build/pictures/before.png build/pictures/after.png docs/img/

clean:  ## remove all that was made here, the environment too
	rm -rf $(VENV) build dist anser-demo

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than 3.10; name another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"  # dependency groups
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/anser: $(STAMPS)/venv $(BUILT_FROM)
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/venv $(BUILT_FROM)
	$(BIN)/pip install --quiet --editable ".[train]" --group dev
	@touch $(STAMPS)/anser $@
