# SPDX-License-Identifier: Apache-2.0
# make demo | test | lint | bench: each installs what it needs first (tools/bootstrap.sh says what it does).

VENV ?= .venv
PYTHON_HERE := $(VENV)/bin/python
export VENV

.PHONY: help demo test lint bench clean

help:  ## What the targets do
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

demo:  ## Compile a trained network, run it on an emulated Cortex-M7 over 200 labelled samples, print the figures
	@tools/bootstrap.sh demo
	@$(PYTHON_HERE) examples/fashion_mnist/demo.py $(ARGS)

test:  ## Run the tests; ARGS="-k pattern -m slow" goes to pytest
	@tools/bootstrap.sh test
	@$(PYTHON_HERE) -m pytest $(ARGS)

lint:  ## ruff and mypy
	@tools/bootstrap.sh test
	@$(PYTHON_HERE) -m ruff check .
	@$(PYTHON_HERE) tools/typecheck.py

bench:  ## Instructions, cycles, SRAM and flash of the models in benchmarks/
	@tools/bootstrap.sh test
	@$(PYTHON_HERE) -m benchmarks $(ARGS)

clean:  ## Remove what the targets made, the virtual environment included
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
