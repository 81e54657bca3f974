# From a fresh clone with Python 3.11: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Small models and many processes: one thread each is fastest, and results then agree between machines of any size.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint table clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/ready
	$(BIN)/neurons compare digits listops-demo --out runs/demo --jobs 2 --threads 1 --resume auto

test: $(VENV)/ready lint
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

table: $(VENV)/ready  # the README's results, from results/
	$(BIN)/python -m baselines.readme_table

clean:
	rm -rf $(VENV) runs build dist
