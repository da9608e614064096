# make run   environment, an audit of the drawn set, the dashboard
# make test  environment, every test
# make check ruff, mypy
# make bench speed, as ratios taken in one run

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check bench demo clean

run: demo
	$(BIN)/streamlit run app.py

demo: $(VENV)/.installed
	@test -f $${CLIPMEM_DATA:-data}/audits/scenes/manifest.json || $(BIN)/python -m clipmem_core audit scenes --name scenes --preset tiny

test: $(VENV)/.installed-tests
	$(BIN)/python -m pytest

check: $(VENV)/.installed-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-tests
	$(BIN)/python -m tests.bench

$(VENV)/.installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-tests: $(VENV)/.installed tests/requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r tests/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
