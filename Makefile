# `make life` and `make test` need nothing but Python: they create .venv, install, and run.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= life

.PHONY: life test battery floor docs lab bench realsets results readme wheel clean

$(VENV)/.installed: settings.ini setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

life: $(VENV)/.installed        ## a language model's life, from text to report
	$(BIN)/lm-lifecycle life --out $(OUT) --resume

test: $(VENV)/.installed        ## every notebook, then the tests
	OMP_NUM_THREADS=1 $(BIN)/python .ci/stable.py
	$(BIN)/python -m pytest

battery: $(VENV)/.installed     ## what could go wrong, all of it: kills, damage, bad files, strangers' files; writes results/battery.json
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/battery --whole

floor:                          ## every notebook with the oldest versions that are supported, as Colab has them
	$(PYTHON) -m venv build/floor
	build/floor/bin/pip install -q -c floor.txt torch
	build/floor/bin/pip install -q -c floor.txt -e '.[dev]'
	OMP_NUM_THREADS=1 build/floor/bin/nbdev-test --n-workers 2 --timing

docs: $(VENV)/.installed        ## the book as a site that needs no network: build/site
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	$(BIN)/python .ci/site.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q -f build/mkdocs.yml
	$(BIN)/python .ci/site.py --check

lab: $(VENV)/.installed         ## read and change the notebooks
	$(BIN)/pip install -q -c constraints.txt -e '.[lab]'
	$(BIN)/jupyter lab nbs

bench: $(VENV)/.installed       ## side by side with the leader; writes results/bench_*.json
	for b in step objectives shakespeare finetune preprocess predict; do $(BIN)/python benchmarks/$$b.py || exit 1; done

realsets: $(VENV)/.installed    ## public data sets in $$LM_DATA: a cell is kept in build/realsets, so it can be stopped
	$(BIN)/python benchmarks/realsets.py

results: $(VENV)/.installed     ## life, race and lab from nothing, and the tables that quote them
	rm -rf build/life build/race build/lab && $(BIN)/lm-lifecycle life --out build/life
	cp build/life/metrics.json results/life.json
	$(BIN)/python -c "from lm_lifecycle.pretraining import race; race('build/race', save='results/pretraining.json')"
	OMP_NUM_THREADS=1 $(BIN)/python -c "from lm_lifecycle.lab.grid import lab; lab('build/lab', 'build/race', 'results/lab.json')"
	for n in 09_pretraining 12b_lab_grid; do $(BIN)/nbdev-test nbs/$$n.ipynb --save && $(BIN)/nbdev-clean --fname nbs/$$n.ipynb || exit 1; done
	$(MAKE) readme

readme: $(VENV)/.installed      ## README.md from nbs/index.ipynb
	$(BIN)/nbdev-test nbs/index.ipynb --save && $(BIN)/nbdev-clean --fname nbs/index.ipynb
	$(BIN)/python .ci/readme.py

wheel: $(VENV)/.installed       ## build a wheel, install it into an empty environment, live there
	rm -rf build/wheel && $(BIN)/python -m build --wheel --outdir build/wheel
	$(PYTHON) -m venv build/wheel/env
	build/wheel/env/bin/pip install -q -c constraints.txt torch
	build/wheel/env/bin/pip install -q -c constraints.txt build/wheel/*.whl
	mkdir build/wheel/empty && cd build/wheel/empty && ../env/bin/lm-lifecycle life --scale tiny

clean:
	rm -rf build $(VENV) life
