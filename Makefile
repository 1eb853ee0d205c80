# Everything happens in .venv; `make demo` and `make test` set it up when it is missing or outdated.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test format clean

setup:
	@$(PYTHON) tools/setup.py

demo: setup
	$(BIN)/python -m lgm demo --out demo

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
