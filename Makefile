# Everything happens in .venv; a stamp file for each set of extras keeps set-up from being repeated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt

.PHONY: demo view test attack lint docs mutants proto clean

demo: $(VENV)/.demo
	@sh .ci/install-system libosmesa6 || true
	$(BIN)/rpl evaluate models/kitchen --episodes 1 --output demo --video demo/kitchen.mp4 --sheet demo/kitchen.png

view: $(VENV)/.view
	$(BIN)/rpl run --bundle models/kitchen --goal microwave,kettle --steps 7500 --view

test: $(VENV)/.dev lint
	@sh .ci/install-system libosmesa6 chromium chromium-driver || true
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m 'not long and not alone'
	$(BIN)/python -m pytest -m 'alone and not long'

# The long form of tests/attack, whose short form is part of `make test`.
attack: $(VENV)/.dev
	$(BIN)/python -m pytest -m 'long or not long' tests/attack

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive rpl_runtime rpl_train

docs: $(VENV)/.dev
	$(BIN)/python docs/site/build.py build/docs
	@echo "open build/docs/index.html"

# Hours long, and goes on where it was stopped; MODULES='rpl_train/relabel.py ...' picks some.
mutants: $(VENV)/.mutants
	nice -n 10 $(BIN)/python tests/mutants.py $(MODULES)

proto: $(VENV)/.dev
	$(BIN)/python proto/generate.py

clean:
	rm -rf $(VENV) build dist demo *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[sim]'
	@touch $@

$(VENV)/.view: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[sim,view]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) --editable '.[sim,view,train,ray,record,otel,franka-sim,docs,dev]'
	@touch $@

$(VENV)/.mutants: $(VENV)/.dev
	$(PIP) --editable '.[mutants]'
	@touch $@
