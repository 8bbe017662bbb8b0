# make sweep     sets up .venv; pictures, one short run, a submission
# make attempts  the study's eight attempts and the default settings, side by side
# make test      the tests;  make bench  every measurement of README (an hour)
#
# PY=python uses an environment that is there already; DATA=/path points at pictures of your own; ARGS adds flags of train.py.
VENV ?= .venv
PY ?= $(VENV)/bin/python
ARGS ?=

.PHONY: setup sweep attempts test bench

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

attempts: $(SETUP)
	$(PY) bench/attempts.py $(ARGS) recipes/attempt-*.json default

test: $(TEST_SETUP)
	$(PY) -m pytest -q

bench: $(TEST_SETUP)
	$(PY) bench/step.py
	$(PY) bench/decode.py
	$(PY) bench/start.py
	$(PY) bench/kill.py
	$(PY) bench/synthetic.py
