# `make demo` and `make test` set up everything they need in .venv; nothing is installed outside this directory.

VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard rlog/*.pyx rlog/native/* rlog/wire/kafka/*.pyx rlog/wire/kafka/*.pxi) setup.py

SEEDS ?= 200
SIM_SECONDS ?= 20
START ?= 1

.PHONY: help demo test clients kafkajs million chaos sim coverage mutants bench examples package docs lint format clean

help:
	@echo "make demo      three nodes on real disks, the leader killed under load, everything verified"
	@echo "make test      the tests (no simulation sweep, no kill -9)"
	@echo "make clients   every Kafka client: all acks and codecs, leaders killed under them"
	@echo "make kafkajs   the same with kafkajs alone; needs node and npm"
	@echo "make million   a million records through each client, the leader killed five times: CLIENT=aiokafka for one"
	@echo "make chaos     kill -9, SIGSTOP and wiped disks on real processes"
	@echo "make sim       the simulation: SEEDS=$(SEEDS) runs of SIM_SECONDS=$(SIM_SECONDS) simulated seconds, from START=$(START)"
	@echo "make coverage  how much of raft/, log/ and node/ the simulation alone executes: 85 % or more"
	@echo "make mutants   the simulation against planted bugs: each must be found"
	@echo "make bench     commit throughput and latency beside what this machine's disk can do"
	@echo "make examples  run every file of examples/, and what the documents tell to type"
	@echo "make package   the source distribution, and a wheel from it, in a new environment"
	@echo "make docs      the documents made from the code: configuration, metrics, errors, and the reference parts"
	@echo "make lint      ruff and mypy --strict"

demo: $(VENV)/.run
	$(BIN)/rlog demo $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest tests --ignore=tests/clients --ignore=tests/chaos $(ARGS)

clients: $(VENV)/.test
	$(BIN)/python -m pytest tests/clients $(ARGS)

kafkajs: $(VENV)/.test
	$(BIN)/python -m pytest tests/clients -k kafkajs $(ARGS)

million: $(VENV)/.test
	$(BIN)/python -m tests.clients.million $(CLIENT) $(ARGS)

chaos: $(VENV)/.test
	$(BIN)/python -m pytest tests/chaos $(ARGS)

sim: $(VENV)/.test
	$(BIN)/python -m rlog.testing --seeds $(SEEDS) --start $(START) --seconds $(SIM_SECONDS) $(ARGS)

coverage: $(VENV)/.test
	$(BIN)/coverage run --source=rlog/raft,rlog/log,rlog/node -m rlog.testing --seeds 20 --jobs 1
	$(BIN)/coverage report --fail-under=85 --omit=rlog/log/format.py,rlog/node/process.py

mutants: $(VENV)/.test
	$(BIN)/python -m tests.sim.mutants $(ARGS)

bench: $(VENV)/.run
	$(BIN)/python -m benchmarks $(ARGS)

examples: $(VENV)/.test
	$(BIN)/python -m examples

package: $(VENV)/.run
	$(BIN)/python -m scripts.package_check

docs: $(VENV)/.test
	$(BIN)/python -m scripts.generated_docs

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f rlog/_core.c rlog/wire/kafka/_hot.c
	find rlog -name '*.so' -delete

# The stamps: an environment; rlog in it, compiled; the tools of the extras `test` and `lint`.

$(VENV)/.made:
	@python=$$(scripts/require) && { echo "setting up $(VENV) with $$python"; \
	"$$python" -m venv $(VENV) && $(BIN)/python -m pip install --quiet "setuptools>=77" "cython>=3.1" wheel; }
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml $(NATIVE)
	@echo "compiling rlog and installing what it needs"
	@$(BIN)/python -m pip install --quiet --no-build-isolation --config-settings editable_mode=compat --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "installing the test tools"
	@$(BIN)/python scripts/extras.py test lint > $(VENV)/extras.txt
	@$(BIN)/python -m pip install --quiet --requirement $(VENV)/extras.txt
	@touch $@
