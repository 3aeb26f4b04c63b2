# One target a job; the first call sets everything up in .venv. PYTHON chooses the interpreter that makes it.
PYTHON ?= python3.11
VENV   := .venv
RUN    := $(VENV)/bin/python
READY  := $(VENV)/ready

.PHONY: setup data test test-all lint demo reproduce-table report bench bench-long clean
.DEFAULT_GOAL := help

help:
	@echo "make demo             eight adapters on real handwritten digits, and their table (minutes on 2 cores)"
	@echo "make data             downloads and prepares the 19 tasks, or ARGS=\"task=dtd,svhn\" some; see docs/data.md"
	@echo "make reproduce-table  the paper's sweep: 19 tasks, 3 seeds, every adapter's grid; says what is missing;"
	@echo "                      ARGS=\"source=tfds protocol=corrected\" changes any part of it, LAUNCHER=ray where it runs"
	@echo "make report           a page of tables and charts, DIR/report.html, from the rows in DIR=results/demo, or another folder"
	@echo "make bench            speed against a plain loop and the machine's limit (minutes); make bench-long: accuracy of bf16"
	@echo "make test             lint, types and the fast tests;  make test-all adds the slow ones and those on real data"

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[dev]'
	@touch $@

setup: $(READY)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# A process for each core, with one thread each: the tests' models are so small that a second thread only waits.
test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n auto --maxprocesses 8

test-all: lint
	$(VENV)/bin/pytest -m "slow or not slow"

demo: $(READY)
	@$(RUN) -m pvera experiment=demo
	@$(RUN) -m pvera.table results/demo --allow-limited --allow-dirty

# Needs TensorFlow, which nothing else does: pip install -e '.[prepare]' in the same environment.
data: $(READY)
	@$(RUN) -m data.prepare $(ARGS)

reproduce-table: $(READY)
	@$(RUN) scripts/reproduce_table.py $(if $(LAUNCHER),launcher=$(LAUNCHER)) $(ARGS)

report: DIR ?= results/demo
report: $(READY)
	@$(RUN) -m pvera.report $(DIR) $(ARGS)

# What has been measured, and what it says: docs/speed.md.
bench: $(READY)
	@$(RUN) -m scripts.benchmarks --out results/benchmarks/bench

bench-long: $(READY)
	@$(RUN) -m scripts.benchmarks accuracy --out results/benchmarks/bench-long

clean:
	rm -rf $(VENV) results/demo .pytest_cache .mypy_cache .ruff_cache *.egg-info
