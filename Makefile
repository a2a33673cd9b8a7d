# Everything starts from python3 (3.11 or newer), pip and make; the rest goes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
# Pins for pip, see the file. On a GPU machine:  make CONSTRAINTS= quickstart
CONSTRAINTS = constraints.txt
SGLANG ?= .venv-sglang
LLAMA ?= .venv-llama
# Passed to `meteor run quickstart`, for example  make quickstart ARGS="--limit 8"
ARGS =

BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

.PHONY: help quickstart test test-sglang test-llama lint bench-engine bench-generate bench-train soak results clean
.DEFAULT_GOAL := help

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

quickstart: $(VENV)/.run-stamp ## The whole method on a real 135M model, here; options in ARGS="..."
	@echo "==> the student: SmolLM2-135M-Instruct"
	$(BIN)/meteor models fetch smollm2-135m
	@echo "==> distil, fine-tune, refine, self-train, with a measurement after each"
	$(BIN)/meteor run quickstart $(ARGS)

test: $(VENV)/.dev-stamp ## Run the test suite
	@echo "==> the tests use the tokenizer of SmolLM2-135M-Instruct"
	$(BIN)/meteor models fetch smollm2-135m
	$(BIN)/python -m pytest

test-sglang: $(VENV)/.dev-stamp ## Build SGLang for the CPU and run the tests against it, a whole run included
	$(BIN)/meteor models fetch smollm2-135m
	@echo "==> an environment of its own for SGLang: $(SGLANG)"
	@tests/sglang_cpu/setup.sh $(SGLANG) $(PYTHON)
	METEOR_TEST_SGLANG=$(abspath $(SGLANG))/bin/python $(BIN)/python -m pytest -m sglang

test-llama: $(VENV)/.dev-stamp ## Compile llama.cpp's server (some 10 minutes) and run the tests against it
	@echo "==> an environment of its own for llama.cpp: $(LLAMA)"
	@tests/llama_cpp/setup.sh $(LLAMA) $(PYTHON)
	METEOR_TEST_LLAMA=$(abspath $(LLAMA))/bin/python $(BIN)/python -m pytest -m llama

lint: $(VENV)/.dev-stamp ## Check style and types: ruff, mypy, pyright
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

results: $(VENV)/.run-stamp ## Write docs/results.md: the method on two domains, 3 seeds; takes hours; options in ARGS="..."
	$(BIN)/meteor models fetch smollm2-135m
	$(BIN)/python benchmarks/results.py $(ARGS)

bench-engine: $(VENV)/.dev-stamp ## The conversation engine beside bare HTTP clients; some of it with W="w1 w2 w3"
	$(BIN)/python benchmarks/bench_engine.py $(W)

soak: $(VENV)/.dev-stamp ## 5,000 questions on a server that misbehaves, killed again and again; options in ARGS="..."
	$(BIN)/python benchmarks/soak.py $(ARGS)

bench-generate: $(VENV)/.dev-stamp ## The transformers backend beside `generate`, on replies of mixed lengths; some sides with S="fixed-4 ours-16"
	$(BIN)/meteor models fetch smollm2-135m
	$(BIN)/python benchmarks/bench_generate.py $(S)

bench-train: $(VENV)/.dev-stamp ## Training beside TRL's SFTTrainer; some of it with W="ours trl"
	$(BIN)/meteor models fetch smollm2-135m
	$(BIN)/python benchmarks/bench_train.py $(W)

clean: ## Remove the environment, builds and caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first: chosen while nothing else has a say in which build it is.
$(VENV)/.run-stamp: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; name a newer one:  make PYTHON=python3.12 ..."; exit 2; }
	@echo "==> making the environment $(VENV)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) 2>/dev/null || { \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@echo "==> installing torch"
	$(INSTALL) torch
	@echo "==> installing meteor-agents with what local models and training need"
	$(INSTALL) -e '.[local,train]'
	@touch $@

$(VENV)/.dev-stamp: $(VENV)/.run-stamp
	@echo "==> installing what tests and linters need"
	$(INSTALL) -e '.[local,train,dev]'
	@touch $@
