# Everything happens in .venv; `make demo` and `make test` set it up when it is missing or outdated.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-fast format clean

setup:
	@$(PYTHON) tools/setup.py

demo: setup
	$(BIN)/python -m lgm demo --out demo

# The types of the page's scripts are checked where npm is; without it that one test is skipped.
test: setup
	-@if command -v npm >/dev/null; then $(MAKE) --no-print-directory build/web/node_modules; fi
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory types
	$(BIN)/python -m pytest -n 2

# What takes seconds a test is left out: for every little change. `make test` is for every commit.
test-fast: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 -m "not slow"

# The types of lgm and nodes, by ty; pyproject.toml says what the link is for.
.PHONY: types
types: setup
	mkdir -p build/types
	ln -sfn ../.. build/types/pack
	$(BIN)/ty check --python .venv build/types/pack/lgm build/types/pack/nodes

# Boots the ComfyUI at COMFYUI_DIR on the CPU; playwright drives its page, and is tried for only here.
.PHONY: test-comfyui
test-comfyui: setup
	-$(BIN)/python -m pip install -q playwright
	$(BIN)/python -m pytest tests/comfyui -rs

# The viewer's libraries and TypeScript, from npm by the lockfile.
build/web/node_modules: tools/web/package-lock.json
	mkdir -p build/web
	cp tools/web/package.json tools/web/package-lock.json build/web
	npm ci --prefix build/web --no-audit --no-fund
	touch $@

# Bundles the libraries into web/vendor: the same bytes each time.
.PHONY: web check-web
web: build/web/node_modules
	node tools/web/build.mjs build/web web/vendor
	node --test tests/web/*.test.mjs

# The documentation as a static site, in build/site. Reads the sources only: torch isn't needed.
DOCS := build/docs-env
.PHONY: docs
docs:
	@test -x $(DOCS)/bin/pip || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install -q -c constraints.txt -e ".[docs]"
	$(DOCS)/bin/mkdocs build --strict

# The JSDoc types of the page's scripts.
check-web: build/web/node_modules
	node build/web/node_modules/typescript/bin/tsc -p tools/web

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
