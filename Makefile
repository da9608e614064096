# make run   environment, an audit of the drawn set, the dashboard
# make test  environment, every test
# make check ruff, mypy
# make bench speed, as ratios taken in one run
# make lowest a small audit and every page on the lowest versions that requirements.txt allows; of torch and torchvision,
#            whose older builds are gigabytes, those that pip gives: TORCH=lowest takes the lowest of them too

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

LOWEST := .venv-lowest
NO_BOUND := $(if $(TORCH),^$$,^torch)

# pip compiles nothing (below), so Python has to keep what it compiles
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test check bench lowest demo clean

run: demo
	$(BIN)/streamlit run app.py

demo: $(VENV)/.installed
	@test -f $${CLIPMEM_DATA:-data}/audits/scenes/manifest.json || $(BIN)/python -m clipmem_core audit scenes --name scenes

test: $(VENV)/.installed-tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=25

check: $(VENV)/.installed-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-tests
	$(BIN)/python -m tests.bench

lowest:
	rm -rf $(LOWEST) && $(PYTHON) -m venv $(LOWEST)
	sed -En 's/^([A-Za-z0-9_-]+)>=([0-9.]+).*/\1==\2/p' requirements.txt | grep -Ev '$(NO_BOUND)' > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --disable-pip-version-check $(if $(TORCH),-c $(LOWEST)/constraints.txt) torch torchvision
	$(LOWEST)/bin/python -m pip freeze | grep -E '^torch(vision)?==' >> $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --disable-pip-version-check -r requirements.txt -c $(LOWEST)/constraints.txt pytest hypothesis
	$(LOWEST)/bin/python -m pip check
	$(LOWEST)/bin/python -m pytest tests/test_smoke.py tests/dashboard/test_mitigations.py -W default -p no:cacheprovider

# --no-compile: pip would take half a minute for files most of which nobody imports
$(VENV)/.installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-tests: $(VENV)/.installed tests/requirements.txt
	$(BIN)/python -m pip install --no-compile --disable-pip-version-check -r tests/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) .pytest_cache .mypy_cache .ruff_cache
