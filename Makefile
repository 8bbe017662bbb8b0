# make sweep: set up, built-in pictures, one short run, a submission.   make test: the tests.
# PY=python uses an environment that is there already; DATA=/path points at pictures of your own.
VENV ?= .venv
PY ?= $(VENV)/bin/python
ARGS ?=

.PHONY: setup sweep attempts test bench clean

ifeq ($(PY),$(VENV)/bin/python)
SETUP = $(VENV)/.done
TEST_SETUP = $(VENV)/.test-done
endif

setup: $(SETUP)

$(VENV)/.done: requirements.txt
	@test -x $(VENV)/bin/python || python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -r requirements.txt
	@touch $@

$(VENV)/.test-done: requirements-test.txt $(VENV)/.done
	$(VENV)/bin/python -m pip install -q -r requirements-test.txt
	@touch $@

sweep: $(SETUP)
	$(PY) train.py --epochs 10 $(ARGS)
	$(PY) predict.py -o submission.csv
	@echo "wrote submission.csv"

test: $(SETUP) $(TEST_SETUP)
	$(PY) -m pytest -q
