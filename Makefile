# Everything happens in .venv; a stamp file for each set of extras keeps set-up from being repeated.
PYTHON ?= python3
LEROBOT_PYTHON ?= python3.12
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt

.PHONY: demo view test matrix attack lint docs lerobot mutants proto clean

demo: $(VENV)/.demo
	@sh .ci/install-system libosmesa6 || true
	$(BIN)/rpl evaluate models/kitchen --episodes 1 --output demo --video demo/kitchen.mp4 --sheet demo/kitchen.png

view: $(VENV)/.view
	$(BIN)/rpl run --bundle models/kitchen --goal microwave --steps 7500 --view

# Files go to the processes in the order of the folders: by default those of few tests come last, and they are slow.
# They are three on two cores, since many tests wait for other processes. These find what Python compiled for the first.
# The second command is given the files that it runs tests of: to read all others takes longer than some of those.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.dev lint
	@sh .ci/install-system libosmesa6 chromium chromium-driver || true
	@sh .ci/install-system cmake g++ libgrpc++-dev libprotobuf-dev protobuf-compiler-grpc || true
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -m 'not long and not alone'
	$(BIN)/python -m pytest -m 'alone and not long' $$(grep -rl --include='test_*.py' 'mark\.alone' tests)

# The runtime's core on every Python that is installed; PYTHONS="python3.12 /opt/python3.13/bin/python3" names others.
PYTHONS ?= python3.11 python3.12 python3.13
CORE := $(addprefix tests/runtime/,auth client policy relay safety server telemetry wire)
# And the tests of all that travels, on both ways, at both ends of the supported range of grpcio.
GRPCIOS ?= 1.80.0 1.85.*
TRAVELS := $(addprefix tests/,runtime/auth runtime/client runtime/planning runtime/server runtime/telemetry attack/test_server.py)

matrix:
	@for python in $(PYTHONS); do \
	    $$python -c '' 2>/dev/null || { echo "$$python is not installed: skipped"; continue; }; \
	    env=$(VENV)/matrix/$$(basename $$python); \
	    $$python -m venv $$env && \
	    $$env/bin/pip install --quiet --constraint constraints.txt '.[sim,record]' pytest hypothesis onnx trustme grpcio-tools && \
	    $$env/bin/python -m pytest $(CORE) || exit 1; \
	    echo "$$python: the core works"; \
	done
	@for grpcio in $(GRPCIOS); do \
	    env=$(VENV)/matrix/grpcio-$$grpcio; \
	    $(PYTHON) -m venv $$env && \
	    grep -v '^grpcio' constraints.txt > $$env/constraints.txt && \
	    $$env/bin/pip install --quiet --constraint $$env/constraints.txt "grpcio==$$grpcio" '.[sim,record]' pytest hypothesis onnx trustme && \
	    $$env/bin/python -m pytest $(TRAVELS) || exit 1; \
	    echo "grpcio $$grpcio: both ways work"; \
	done

# The long form of tests/attack, whose short form is part of `make test`.
attack: $(VENV)/.dev
	$(BIN)/python -m pytest -m 'long or not long' tests/attack

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive rpl_command.py rpl_runtime rpl_train

docs: $(VENV)/.dev
	$(BIN)/python docs/site/build.py build/docs
	@echo "open build/docs/index.html"

# LeRobot needs other versions than this project, so it gets an environment of its own.
lerobot: $(VENV)/.dev
	rm -rf build/lerobot && mkdir -p build/lerobot
	$(BIN)/rpl demos play build/lerobot/demos --sequences 2
	$(BIN)/rpl demos export build/lerobot/demos --lerobot build/lerobot/set
	$(LEROBOT_PYTHON) -m venv build/lerobot/venv
	build/lerobot/venv/bin/pip install --quiet 'lerobot[dataset]>=0.6,<0.7'
	build/lerobot/venv/bin/python -c "from lerobot.datasets.lerobot_dataset import LeRobotDataset as D; \
	  d = D('own/set', root='build/lerobot/set'); print(len(d), 'steps,', d.num_episodes, 'episodes:', d[0]['task'])"

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
	$(PIP) --editable '.[sim,view,train,ray,record,lerobot,otel,franka-sim,docs,dev]'
	@touch $@

$(VENV)/.mutants: $(VENV)/.dev
	$(PIP) --editable '.[mutants]'
	@touch $@
