# Everything below installs its own environment first; nothing else has to be typed on a fresh machine.
#   make reproduce PROFILE=sample IMAGENET=~/photos ONLY="idgi_benchmark report" WEIGHTS=~/checkpoints

SHELL   := bash
PROFILE ?= laptop
PYTHON  ?= python3
PY      ?= .venv/bin/python
READY   := $(if $(filter .venv/bin/python,$(PY)),.venv/installed)
RUN      = $(PY) -m lib.run
OPTIONS  = --profile $(PROFILE) $(if $(ONLY),--only "$(ONLY)") $(if $(IMAGENET),--images "$(IMAGENET)") \
           $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(NHANES),--nhanes "$(NHANES)") \
           $(if $(DATASETS),--datasets "$(DATASETS)") $(if $(OUTPUT),--output "$(OUTPUT)") \
           $(if $(WORKERS),--workers "$(WORKERS)") $(if $(CLUSTER),--cluster "$(CLUSTER)")
NOTEBOOKS = $(wildcard notebooks/*.ipynb)

# What lib/run/cluster.py tells the processes that compute about memory, for all others: plans, the lab, benchmarks, tests.
export MALLOC_TRIM_THRESHOLD_ = 2147483648
export MALLOC_MMAP_THRESHOLD_ = 1073741824
export MALLOC_ARENA_MAX = 1
export GLIBC_TUNABLES = glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0

.PHONY: help reproduce smoke plan verify figures report test test-slow lint format lab explore bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z%<>-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  options: PROFILE=smoke|laptop|sample|imagenet  ONLY="name ..."  IMAGENET=folder  WEIGHTS=folder'
	@echo '           NHANES=folder (X_sparsity.csv and y_sparsity.npy)  DATASETS=folder (MNIST, GTSRB, ...)  OUTPUT=folder'
	@echo '           WORKERS=number of processes that compute  CLUSTER=tcp://host:port of a running Dask scheduler'
	@echo '           PYTHON=python3.12 (what .venv is made with)  PY=python (use the active environment instead)'

reproduce: $(READY)  ## run every notebook whose inputs changed, then the report
	@$(RUN) reproduce $(OPTIONS)

smoke: $(READY)  ## the same in minutes, on a few photographs
	@$(RUN) reproduce $(OPTIONS) --profile smoke

plan: $(READY)  ## what would run, why, and for how long
	@$(RUN) plan $(OPTIONS)

verify: $(READY)  ## recompute and compare with the committed tables; OUTPUT=folder keeps it; SHARE=0.1 a tenth of the units
	@$(RUN) verify $(OPTIONS) $(if $(SHARE),--share "$(SHARE)") $(if $(SEED),--seed "$(SEED)")

figures: $(READY)  ## draw the figures again from finished units, for print: FORMAT=pdf
	@FIGURE_FORMAT=$(or $(FORMAT),pdf) $(RUN) figures $(OPTIONS)

report: $(READY)  ## only the page of claims, from the results at hand, and open it in the browser
	@$(RUN) report $(OPTIONS)
	@$(PY) -c 'import pathlib, sys, webbrowser; webbrowser.open(pathlib.Path(sys.argv[1]).expanduser().absolute().as_uri())' \
	  "$(or $(OUTPUT),.)/results/$(PROFILE)/report.html"

claim-%: $(READY)  ## one claim by its name in params/claims.yaml
	@$(RUN) claim $* $(OPTIONS)

test: $(READY)  ## the tests, the examples in docstrings and every notebook's smoke run among them
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: $(READY)  ## the tests that take longer: killed clusters, the whole of PROFILE=imagenet on made-up photographs
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m slow

lint: $(READY)  ## style, formatting, imports from the rooms below only, and notebooks without outputs
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .
	@$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	@$(if $(NOTEBOOKS),$(PY) -m nbstripout --verify $(NOTEBOOKS))

format: $(READY)  ## repair what lint complains about
	@$(PY) -m ruff check --fix --quiet . ; $(PY) -m ruff format .
	@$(if $(NOTEBOOKS),$(PY) -m nbstripout $(NOTEBOOKS))

lab: $(READY)  ## open the notebooks in JupyterLab, for this machine only; LAB="its own options"
	@OMP_NUM_THREADS=1 $(PY) -m jupyter lab notebooks --ip=127.0.0.1 $(LAB)

explore: $(READY)  ## open the explorer: maps of your own images, your own rule scored; WORKERS=, LAB= as above
	@$(PY) -m lib.run.explore $(if $(WORKERS),--workers "$(WORKERS)") $(LAB)

bench: $(READY)  ## time this code against its peers, side by side; ONLY="part of a case's name"
	@$(PY) -m lib.run.bench $(if $(ONLY),--only "$(ONLY)")

clean:  ## remove the caches of tools; RESULTS=1: finished units and uncommitted results too
	@$(PYTHON) -m lib.run.clean $(if $(RESULTS),--results) $(if $(OUTPUT),--output "$(OUTPUT)")

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python %d.%d is too old: install Python \
	3.11 or newer and type make PYTHON=python3.11" % sys.version_info[:2])'
	@echo "Setting up .venv once (several minutes, about 6 GB with the GPU libraries). Large packages as they arrive:"
	@$(PYTHON) -m venv .venv
	@set -o pipefail; .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off -e '.[test]' \
	  | awk '/(Downloading|Using cached).*[0-9][0-9]\.[0-9] MB\)/ {print "  " $$0; fflush()}'
	@touch $@ && echo "Environment ready."
