# `make book` builds the site, `make test` tests everything. Both need Python 3.11 to 3.13, make and git.

SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(if $(shell $(name) -c \
	'import sys; print("ok" if (3, 11) <= sys.version_info < (3, 14) else "")' 2>/dev/null),$(name))))
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ASSETS := .vendor/.fetched
JUPYTER_BOOK := $(BIN)/jupyter-book build . --nitpick --warningiserror --keep-going

# Tests and chapters run so many at a time, one thread each. The number of threads is the same everywhere, for the last
# digits of a sum depend on it.
JOBS ?= 2
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= $(OMP_NUM_THREADS)
export PYTHONHASHSEED ?= 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Breakpoint support in kernels is not wanted; without this each prints a warning.
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: book test lint notebooks bench clean distclean
.DELETE_ON_ERROR:

book: $(INSTALLED) $(ASSETS)
	$(BIN)/python book/_ext/store_executed.py --run $(JOBS)
	$(JUPYTER_BOOK)
	@echo "the book is in _build/html/index.html"

test: $(INSTALLED) $(ASSETS) lint
	$(BIN)/python -m pytest -n $(JOBS) tests --ignore=tests/browser --ignore=tests/test_site.py
	$(BIN)/python -m pytest -n $(JOBS) --nbmake --overwrite --nbmake-timeout=600 --durations=0 book
	$(BIN)/python book/_ext/store_executed.py
	$(BIN)/python book/_ext/derived_notebooks.py
	$(JUPYTER_BOOK) --all
	$(BIN)/python -m pytest tests/test_site.py tests/browser

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Notebooks for Colab, one for each chapter; the publish workflow puts them on the branch `notebooks`.
notebooks: $(INSTALLED)
	$(BIN)/python book/_ext/derived_notebooks.py

bench: $(INSTALLED)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf _build notebooks .pytest_cache .ruff_cache .hypothesis

distclean: clean
	rm -rf $(VENV) .vendor ntkbook.egg-info

$(INSTALLED): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed, and none was found" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Where npm cannot download, the pages fall back to a CDN, and the browser tests then fail and say so.
$(ASSETS): $(INSTALLED) book/_ext/package.json book/_ext/fetch_assets.py
	@if $(BIN)/python book/_ext/fetch_assets.py; then touch $@; else echo "the pages will use a CDN" >&2; fi
