# The few commands, the same for people and for CI. `make demo` is where to begin.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format test-gpu clean

demo: .venv/installed  ## train, export, measure and ask a real model on real reviews
	$(BIN)/bertline demo

test: .venv/installed  ## all tests but those that need a GPU
	$(BIN)/python -m pytest -m "not gpu"

test-gpu: .venv/installed  ## those that need a GPU
	$(BIN)/python -m pytest -m gpu

lint: .venv/installed  ## style, types, and the floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The exact versions of constraints.txt; made again when those or the project's own list change.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --use-pep517 --constraint constraints.txt --editable '.[train,export,demo,dev]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
