# make demo: set up, learn the embedded digits, show the result.
# make test: set up, then lint, types, imports, the documentation and the tests but the slow ones.
# make docs: build the documentation in site/; it fetches nothing when it is read.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-slow lint docs clean

demo: $(STAMP)
	@if [ -f runs/demo/summary.json ]; then \
		echo "runs/demo is trained already (make clean removes it)"; \
		$(BIN)/transxnet eval --data digits --checkpoint runs/demo; \
	else \
		rm -rf runs/demo && $(BIN)/transxnet train --out runs/demo; \
	fi
	@echo "open runs/demo/samples.png and runs/demo/curves.png"

test: $(STAMP) lint docs
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not gpu"

test-slow: $(STAMP)
	$(BIN)/pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv runs site .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@
