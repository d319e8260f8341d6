# Commands for newcomers and contributors. They need Python 3.11 to 3.13 and a package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: demo test gpu lint docs links setup clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "calojax needs Python 3.11 to 3.13, this is %d.%d; use make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[plots]' --group dev
	touch $@

# From the Geant4 showers in examples/ to a trained model, its showers and pictures; then showers of the
# parametric generator with the same energies.
demo: setup
	rm -rf $(DEMO)
	mkdir -p $(DEMO)
	$(BIN)/calojax check examples/geant4_ds2_train.hdf5
	$(BIN)/python train.py calovq-demo --data examples/geant4_ds2_train.hdf5 --out $(DEMO)/run --cache $(DEMO)/cache --validate-every 100
	$(BIN)/python sample.py $(DEMO)/run --energies examples/geant4_ds2_test.hdf5 --out $(DEMO)/showers.hdf5
	$(BIN)/calojax evaluate $(DEMO)/showers.hdf5 examples/geant4_ds2_test.hdf5 --out $(DEMO)/evaluation --metrics histograms correlations --name Calo-VQ
	$(BIN)/calojax simulate --geometry ds2 --energies examples/geant4_ds2_test.hdf5 --out $(DEMO)/generator.hdf5
	$(BIN)/calojax check $(DEMO)/generator.hdf5
	@echo "Pictures: $(DEMO)/evaluation/report.html, $(DEMO)/evaluation/figures/ and $(DEMO)/run/loss.png"

test: setup
	$(BIN)/python -m pytest -n auto --dist worksteal

# On a machine with an accelerator: whether it makes a CPU's showers, and how fast it is, in eight
# minutes; then the picture of docs/speed.md. Installs nothing: PYTHON has calojax[plots] and JAX for
# the accelerator.
gpu:
	$(PYTHON) benchmarks/run.py --out benchmarks/results
	$(PYTHON) benchmarks/picture.py benchmarks/results/generation_*.jsonl --out docs/speed.png

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The documentation site, in docs/_build/html; warnings, such as about broken links between pages, are
# errors. `make links` tries the links to other sites.
docs: setup
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

links: setup
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/sphinx-build -q -D nb_execution_mode=off -b linkcheck docs docs/_build/links

clean:
	rm -rf $(VENV) $(DEMO)
