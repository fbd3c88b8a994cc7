# Everything a person types; .ci/run calls `make check`.
VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup check lint test fix demo bench soak guards clean

setup: $(READY)        ## make .venv with everything in it

$(READY): pyproject.toml constraints.txt deploy/setup.sh
	bash deploy/setup.sh $(VENV)
	touch $@

check: lint test       ## every check and every test

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/pyright -p tests

test: $(READY)
	$(BIN)/pytest -q -n auto --dist loadfile

fix: $(READY)          ## format, and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(READY)         ## the main job, from an empty mesh to a filed issue (KEEP=1 leaves it running)
	$(BIN)/python -m tests.e2e.demo

bench: $(READY)        ## every figure beside its baseline (ONLY=jobs for one subject)
	$(BIN)/python -m tests.bench $(ONLY)

soak: $(READY)         ## every soak of docs/operations.md: fuzz, kill, cut the power, fill disks, take workers away, shuffle records (JOBS, ROUNDS, SEED)
	$(BIN)/python -m tests.soak.fuzz
	$(BIN)/python -m tests.soak.kills
	$(BIN)/python -m tests.soak.records
	$(BIN)/python -m tests.soak.power
	$(BIN)/python -m tests.soak.full
	$(BIN)/python -m tests.soak.failover
	$(BIN)/python -m tests.soak.shares
	$(BIN)/python -m tests.soak.any_order
	$(BIN)/python -m tests.soak.keeping

guards: $(READY)       ## take each transport guard out in turn and see its test fail
	$(BIN)/python -m tests.guards.run

clean:
	rm -rf $(VENV) .demo
