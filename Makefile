# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow fuzz coverage export-all guard check models format clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(0 if ok else "semask needs Python 3.11 to 3.13; this is " + sys.version.split()[0] + ". Use PYTHON=/path/to/python3.12 make …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)  ## Train a small SeMask-FPN on drawn scenes, measure it, segment held-out scenes into runs/demo.
	$(BIN)/semask demo --out runs/demo

test: $(READY)  ## The whole test suite.
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY)  ## The few tests that take minutes.
	$(BIN)/python -m pytest -m slow

fuzz: $(READY)  ## 10,000 broken files of every format, archives and records through every reader; SEMASK_FUZZ_SEED=N for others.
	SEMASK_FUZZ=10000 $(BIN)/python -m pytest tests/fuzz -n 2

coverage: $(READY)  ## Lines that no test reaches.
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report term-missing:skip-covered

export-all: $(READY)  ## Export every recipe to ONNX and compare it with its model: hours.
	$(BIN)/python benchmarks/exports.py --all-recipes --runtimes onnx --out runs/exports.md

guard: $(READY)  ## Models beside their reference forms: fails where a ratio of benchmarks/bounds.json is exceeded; needs a quiet machine.
	$(BIN)/python benchmarks/targets.py --rounds 5 --check

check: $(READY)  ## Lint, format, types, the direction of imports, spelling.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

models: $(READY)  ## Count what every recipe costs, anew: the package's catalogue and docs/models.md.
	$(BIN)/python tools/write_models.py

format: $(READY)  ## Fix what can be fixed without thinking.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache build dist src/*.egg-info
