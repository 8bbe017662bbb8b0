# make sweep          a grid of settings, their ranking, what moves the score
# make study          all of it: sweep, tune, sensitivity, seeds, calibrate, final, submission; each also by its own name; each goes on
#                     where it stopped, and runs those before it where they are not done
# make twostage       a new last layer on finished runs (RUN=runs/photos, else what the study chose), beside the old one
# make slurm          the sweep as an array of JOBS Slurm tasks that share this folder; SBATCH="--partition=gpu" adds flags
# make report         a page of the newest study or run of PROJECT, or of WHAT=FOLDER
# make readme-picture docs/report.png, of the study WHAT=FOLDER
# make attempts       the painters study's eight attempts and the default settings, side by side
# make effects        what each method adds to the default settings, out of fold (IMG=64)
# make benchmark      CIFAR-100-LT beside published figures (DATA=its folder, with train/ and test/)
# make lint           ruff's rules and format (pyproject.toml)
# make test           the tests;  make bench  speed, kills, the built-in set (an hour)
# make gpu            on a GPU, in ten minutes: its tests, its benches, and dated records in bench/results (OUT=DIR)
# make test-slurm     make slurm on a Slurm of one node that it starts and ends
#
# Without DATA=/path it takes the built-in pictures and a grid of minutes; with it, the grid below. QUICK=1 and QUICK=0 choose.
# PY=python uses an environment that is there already; FLAGS adds flags of train.py to every stage of the study. FOLDS
# give way where the data has a validation folder of its own. METRIC=acc or nll ranks by accuracy or NLL, not macro F1.
VENV ?= .venv
PY ?= $(VENV)/bin/python
DATA ?=
QUICK ?= $(if $(DATA),0,1)
PROJECT ?= runs
IMG ?= auto
FLAGS ?=
JOBS ?= 4
RUN ?=
OUT ?= bench/results
WHAT ?=
SBATCH ?=
METRIC ?= macro_f1

ifeq ($(QUICK),1)
MIXUP_P ?= 0,0.4
LS ?= 0,0.1
BALANCE ?= none
FOLDS ?= 0
EPOCHS ?= 5
LR ?= 1e-3..4e-3:log
WD ?= 0.03..0.3:log
BATCH ?= 32
SCHEDULE ?= cosine
STEM ?= 3,7
TRIALS ?= 3
AROUND ?= lr=x0.5,x2
ABLATE ?=
SEEDS ?= 3
MODELS ?= 2
BASE = --warmup 0.5 --ema-epochs 1 --cutmix-p 0
else
MIXUP_P ?= 0,0.2,0.4,0.6
LS ?= 0,0.05,0.1
BALANCE ?= none,sampler
FOLDS ?= 3
EPOCHS ?= 80
LR ?= 5e-4..8e-3:log
WD ?= 0.01..0.3:log
BATCH ?= 16,32,64
SCHEDULE ?= cosine,onecycle
STEM ?= 3,7
TRIALS ?= 16
AROUND ?= lr=x0.5,x2 weight_decay=x0.3,x3 batch_size=x0.5,x2 epochs=x0.5,x2
ABLATE ?= yes
SEEDS ?= 5
MODELS ?= 5
BASE =
endif

# What a stage has chosen, FLAGS would undo in the next one.
CHOSEN = --mixup-p --ls --label-smoothing --smoothing --balance --lr --weight-decay --wd --batch-size --batch -b --schedule --stem-kernel --epochs
UNDOING = $(filter $(CHOSEN) $(addsuffix =%,$(CHOSEN)),$(FLAGS))
ifneq ($(filter tune sensitivity seeds calibrate final submission study,$(MAKECMDGOALS)),)
$(if $(UNDOING),$(error FLAGS has $(UNDOING), which the study chooses: give MIXUP_P, LS, BALANCE, LR, WD, BATCH, SCHEDULE, STEM or EPOCHS))
endif

# What a stage needs stands after FLAGS, which it overrules.
SWEEP = $(PY) sweep.py $(FLAGS) --project $(PROJECT) --metric $(METRIC)
GRID = $(PY) sweep.py $(if $(DATA),--data $(DATA)) --img-size $(IMG) --folds $(FOLDS) --epochs $(EPOCHS) $(BASE) $(FLAGS) \
  --project $(PROJECT) --metric $(METRIC) --name sweep --grid mixup_p=$(MIXUP_P) ls=$(LS) balance=$(BALANCE)
BEST = $(PROJECT)/best.json
choose = $(PY) -m study.best $(BEST) $(addprefix $(PROJECT)/,$(1))

.PHONY: report readme-picture setup sweep tune sensitivity seeds calibrate final submission study twostage slurm attempts effects benchmark lint test test-slurm bench gpu

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
	$(GRID)
	@test $(QUICK) != 1 || echo "that was the quick grid; the full one: make sweep DATA=/path/to/pictures, or QUICK=0" >&2

slurm: $(SETUP)
	@mkdir -p $(PROJECT)/sweep
	sbatch --array=0-$$(($(JOBS) - 1)) --output=$(PROJECT)/sweep/slurm-%A_%a.log $(SBATCH) slurm.sh $(GRID)
	@echo "its tasks write to $(PROJECT)/sweep; the ranking so far: $(SWEEP) --name sweep --status" >&2

tune: sweep
	$(SWEEP) --name tune -c $(PROJECT)/sweep/best.json --halving 3 \
	  --sobol $(TRIALS) lr=$(LR) weight_decay=$(WD) batch_size=$(BATCH) schedule=$(SCHEDULE) stem_kernel=$(STEM)

sensitivity: tune
	$(call choose,sweep tune)
	$(SWEEP) --name sensitivity --around $(BEST) $(AROUND)
	$(if $(ABLATE),$(SWEEP) --name ablation --ablate $(BEST))

seeds: sensitivity
	$(call choose,sweep tune sensitivity ablation)
	$(PY) seeds.py $(FLAGS) --project $(PROJECT) --metric $(METRIC) -c $(BEST) --n $(SEEDS)

final: sensitivity
	$(call choose,sweep tune sensitivity ablation)
	$(SWEEP) --name final -c $(BEST) --folds 0 --val-split 0 --seeds $(MODELS)

calibrate: sensitivity
	$(call choose,sweep tune sensitivity ablation)
	$(PY) calibrate.py $(BEST)

submission: final calibrate
	$(PY) predict.py --project $(PROJECT) -o submission.csv
	@echo "wrote submission.csv" >&2

study: sweep tune sensitivity seeds calibrate final submission

twostage: $(SETUP)
	$(PY) -m study.twostage $(RUN) --project $(PROJECT)

report: $(SETUP)
	$(PY) report.py $(if $(WHAT),$(WHAT),--project $(PROJECT))

readme-picture: $(SETUP)
	$(PY) -m bench.readme_picture $(WHAT)

attempts: $(SETUP)
	$(PY) -m bench.attempts $(FLAGS) $(if $(DATA),--data $(DATA)) recipes/attempt-*.json default

effects: $(SETUP)
	$(PY) -m bench.effects $(FLAGS) $(if $(DATA),--data $(DATA)) --img-size $(IMG) --folds 3 --epochs 40 --project $(PROJECT)

benchmark: $(SETUP)
	$(PY) -m bench.benchmark -c recipes/cifar100-lt.json $(FLAGS) $(if $(DATA),--data $(DATA)) --project $(PROJECT)

lint: $(TEST_SETUP)
	$(PY) -m ruff check
	$(PY) -m ruff format --check

test: $(TEST_SETUP)
	$(PY) -m pytest -q -n 2 --dist loadfile

test-slurm: $(SETUP)
	$(PY) tests/slurm_array.py

bench: $(TEST_SETUP)
	$(PY) -m bench.step
	$(PY) -m bench.decode
	$(PY) -m bench.start
	$(PY) -m bench.kill
	$(PY) -m bench.synthetic
	$(PY) -m bench.study
	$(PY) -m bench.loss
	$(PY) -m bench.view
	$(PY) -m bench.kernels

gpu: $(TEST_SETUP)
	PY=$(PY) OUT=$(OUT) bench/gpu-first.sh; first=$$?; PY=$(PY) OUT=$(OUT) bench/gpu-second.sh; exit $$((first | $$?))
