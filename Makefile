# The few commands, the same for people and for CI. `make demo` is where to begin.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-faults test-load test-matrix test-gpu lint format schema bench-train bench-train-accuracy bench-export bench-serve bench-distill bench-search clean

demo: .venv/installed  ## train, export, measure and ask a real model on real reviews
	$(BIN)/bertline demo

# as in pyproject.toml, which a -m replaces
SHORT := not gpu and not faults and not matrix and not load

test: .venv/dev  ## all tests but those that need a GPU or take long
	$(BIN)/python -m pytest -m "$(SHORT) and not quiet" --numprocesses 3 --dist loadfile --max-worker-restart 0
	$(BIN)/python -m pytest tests/serve -m "$(SHORT) and quiet"

test-faults: .venv/dev  ## 200 kills of ranks, ranks that hang, runs that change their ranks, for minutes
	$(BIN)/python -m pytest -m faults -rP -o faulthandler_timeout=0

test-load: .venv/dev  ## serving under load, slow and hostile clients, clusters of Ray, for minutes
	$(BIN)/python -m pytest -m load -rP -o faulthandler_timeout=0

test-matrix: .venv/dev  ## every encoder with every task by every candidate of export
	$(BIN)/python -m pytest -m matrix

test-gpu: .venv/dev  ## those that need a GPU
	$(BIN)/python -m pytest -m gpu

bench-train: .venv/dev  ## training speed beside PyTorch's loop and the Trainer; the machine should be quiet
	$(BIN)/python -m bertline.benchmarks.train

bench-train-accuracy: .venv/installed  ## whether batching by length or bf16 costs accuracy
	$(BIN)/python -m bertline.benchmarks.train.accuracy

bench-export: .venv/installed runs/demo/run.json  ## bundles beside optimum's files and OpenVINO; the machine should be quiet
	$(BIN)/python -m bertline.benchmarks.export runs/demo

bench-serve: .venv/installed bundles/demo/bertline.json  ## what HTTP costs; the machine should be quiet
	$(BIN)/python -m bertline.benchmarks.serve bundles/demo

bench-distill: .venv/installed  ## students with and without a teacher, and what shrink finds; hours for three seeds
	$(BIN)/python -m bertline.benchmarks.distill

bench-search: .venv/installed  ## what a search finds beside the defaults; an hour or more for three seeds
	$(BIN)/python -m bertline.benchmarks.search

# Whether they are there is asked, not whether they are older: what is finished is not made again.
bundles/demo/bertline.json: | runs/demo/run.json
	$(BIN)/bertline export runs/demo --max-drop 0.02

runs/demo/run.json: | .venv/installed
	$(BIN)/bertline train launch/recipes/demo.yaml

lint: .venv/dev  ## style, types, and the floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: .venv/installed  ## docs/*.schema.json, of manifest and recipe as the code has them
	$(BIN)/python -c "import json; from bertline.artifacts import bundle; print(json.dumps(bundle.schema(), indent=2))" > docs/bertline.schema.json
	$(BIN)/python -c "import json; from bertline.artifacts import recipe_schema; print(json.dumps(recipe_schema.schema(), indent=2))" > docs/recipe.schema.json

# The exact versions of constraints.txt; made again when those or the project's own list change. Python compiles what is
# imported; pip would compile 25,000 files, most of which nothing imports, for a minute or two.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --use-pep517 --constraint constraints.txt --editable

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bertline needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[train,search,export,serve,openvino,demo]'
	touch $@

# what only tests, lint and the Trainer that bench-train measures need
.venv/dev: .venv/installed
	$(INSTALL) '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
