# make demo: set up, learn the embedded digits, show the result.
# make test: set up, then lint, types, imports, the documentation and the tests but the slow ones.
# make test-slow: the slow tests, with Ray in an environment of its own.
# make test-gpu: tests of networks, commands and kernels on a CUDA device.
# make test-oldest: the same tests with the oldest releases that pyproject.toml allows, in an environment of their own.
# make conflicts: which releases are chosen beside other packages.
# make docs: build the documentation in site/; it fetches nothing when it is read.
# make wheel, make wheel-aarch64: a wheel with compiled kernels in dist/; the latter needs g++-aarch64-linux-gnu.
# make clean: remove environments, runs and everything built.
# make help: these lines.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
OLDEST := .venv-oldest
RAY := .venv-ray

.PHONY: demo help test test-slow test-gpu test-oldest lint docs conflicts wheel wheel-aarch64 clean

demo: $(STAMP)
	@if [ -f runs/demo/summary.json ]; then \
		echo "runs/demo is trained already (make clean removes it)"; \
		$(BIN)/transxnet eval --data digits --checkpoint runs/demo; \
	else \
		rm -rf runs/demo && $(BIN)/transxnet train --out runs/demo; \
	fi
	@echo "open runs/demo/samples.png and runs/demo/curves.png, or try it on a page: $(BIN)/transxnet serve"

help:
	@sed -n 's/^# //p' Makefile

test: $(STAMP) lint docs
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not gpu"

test-slow: $(STAMP) $(RAY)/.installed
	RAY_PYTHON=$(abspath $(RAY))/bin/python $(BIN)/pytest -m slow

test-gpu: $(STAMP)
	$(BIN)/pytest -n 4 tests/gpu $(wildcard tests/kernels/test_cuda_*.py)

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/uv pip list --python $(OLDEST)/bin/python
	$(OLDEST)/bin/pytest -n 2 --dist worksteal -m "not slow and not gpu"

conflicts: $(STAMP)
	$(BIN)/python tools/resolve_beside.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: MACHINE = x86_64
wheel-aarch64: MACHINE = aarch64
wheel wheel-aarch64: $(STAMP)
	rm -rf build
	TRANSXNET_WHEEL_KERNELS=$(MACHINE) $(BIN)/python -m build --wheel --outdir build/wheel
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair build/wheel/*.whl --wheel-dir dist
	$(BIN)/twine check --strict dist/*_$(MACHINE).whl

clean:
	rm -rf .venv $(OLDEST) $(RAY) build dist runs site .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

$(RAY)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(RAY)
	$(RAY)/bin/pip install --quiet --disable-pip-version-check -e ".[serve]" "ray[serve]>=2.54"
	@touch $@

$(OLDEST)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check uv
	$(OLDEST)/bin/uv pip compile --quiet --resolution lowest-direct --extra test --python $(OLDEST)/bin/python pyproject.toml -o $(OLDEST)/requirements.txt
	$(OLDEST)/bin/uv pip install --python $(OLDEST)/bin/python -r $(OLDEST)/requirements.txt
	$(OLDEST)/bin/uv pip install --python $(OLDEST)/bin/python --no-deps -e .
	@touch $@
