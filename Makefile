# Everything runs in .venv, which is made on the first call and again only when its pins change.
# Another Python: make test PYTHON=python3.13    Options for the run: make run ARGS="--profile standard"
# PyTorch's small CPU build: make lab TORCH=cpu, the first time; it is remembered. TORCH is any name that
# uv pip install --torch-backend takes; uv knows where PyTorch keeps the build.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed
# The stamp says which build of PyTorch was installed; nothing stands for that of PyPI.
INSTALLED_TORCH := $(shell cat $(STAMP) 2>/dev/null)
TORCH ?= $(INSTALLED_TORCH)
ifneq ($(wildcard $(STAMP)),)
ifneq ($(TORCH),$(INSTALLED_TORCH))
$(error .venv holds PyTorch from $(or $(INSTALLED_TORCH),PyPI), not from $(or $(TORCH),PyPI); delete .venv to install another build)
endif
endif
# JupyterLab refuses to start as root unless told, as in a container.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: help run lab test browser lint docs notebooks clean
.DEFAULT_GOAL := help

help:
	@echo "make run        run every notebook and write a report page to output/index.html"
	@echo "make lab        open JupyterLab at the first notebook"
	@echo "make test       run the tests, the notebooks among them"
	@echo "make browser    run only the tests in a real browser; screenshots go to build/screenshots (needs Chromium or Chrome)"
	@echo "make lint       check style, format, types and the direction of imports"
	@echo "make docs       build the documentation site in build/docs"
	@echo "make notebooks  run the stored notebooks again, with stills of their figures (needs Chromium or Chrome)"
	@echo "make clean      delete reports and caches (not .venv, not data/)"
	@echo "Without an NVIDIA GPU add TORCH=cpu the first time, as in make lab TORCH=cpu: .venv is 4.6 GB smaller."

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	  'arcvq needs Python 3.11 or later, and "$(PYTHON)" is not; name another: make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo \
	  'Python lacks its venv module; on Debian and Ubuntu: sudo apt install python3-venv' >&2; exit 1; }
	@echo 'Installing into .venv; PyTorch is large, so this takes a minute or more, once.'
	$(PYTHON) -m venv .venv
	$(if $(TORCH),$(BIN)/python -m pip install --quiet uv)
	$(if $(TORCH),$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend $(TORCH) \
	  --constraint constraints.txt --no-deps torch torchvision)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[kit,docs,test]'
	@echo '$(TORCH)' > $@

run: $(STAMP)
	$(BIN)/arcvq run --out output $(ARGS)

# Threads that wait for work sleep, or a machine with other work would crawl.
lab: $(STAMP)
	OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} $(BIN)/jupyter lab $(AS_ROOT) notebooks/00_start_here.ipynb

# One thread each: two processes with two threads on two cores mostly wait for each other. Each process takes a gigabyte
# or two, so there are at most four. tests/conftest.py orders the files.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

browser: $(STAMP)
	ARCVQ_REQUIRE_BROWSER=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(STAMP)
	$(BIN)/sphinx-build -W --keep-going -q -d build/doctrees docs build/docs
	@echo 'The site is in build/docs; its first page is build/docs/index.html.'

notebooks: $(STAMP)
	$(BIN)/python tools/regenerate_notebooks.py $(ARGS)

clean:
	rm -rf output build dist docs/extra docs/notebooks docs/tables docs/tokens.html *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find arcvq tests tools notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
