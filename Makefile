# Everything a user, an operator or CI calls. `make` alone explains.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
PYTHON := $(BIN)/python
LOCK := requirements.lock
PEERS := $(VENV)/peers
READY := $(VENV)/.ready$(TORCH)
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS))
# The newest Python from 3.11 on that really starts and can make a virtual environment.
PY ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
CONFIRM := $(if $(YES),--yes)
PROTOCOL ?= standard
KEPT ?= last
# The pairs of torch and torchvision that are tried together: the lock's, and that of TORCH=cpu, which
# lags where the newest CPU build cannot be had everywhere.
LOCKED_TORCH := torch==2.15.0 torchvision==0.29.2
CPU_TORCH := torch==2.13.0 torchvision==0.28.0

# Every command here is a process or several; without it each would compile its libraries anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup lock demo test test-slow test-drills test-browser test-hostile fuzz guard check format train-all study evaluate table leaderboard submit work bench-speed bench-board bench-start gpu-check picture

help:  ## this text
	@echo "make demo          train matched pairs on digits, attack them, print the board (3 to 5 min on 2 cores)"
	@echo "make test          set up what is needed, run the tests (3 to 8 min on 2 cores)"
	@echo "make leaderboard   open the board on the recorded results"
	@echo
	@echo "make train-all     train five methods with and without AWP on DATASET=digits, SEEDS=3, and measure KEPT=last [ARCH= YES=1]"
	@echo "make study         train, measure and compare what a study asks: NAME=digits-methods [SEEDS= ONLY= YES=1]"
	@echo "make evaluate      measure every checkpoint not measured yet [PROTOCOL=standard KEPT=last DATASET= N= YES=1]"
	@echo "make submit        CHECKPOINT=file ARCH=… DATASET=… NAME=… [THREAT= MEAN= STD= ARCH_ARGS='k=v …' WEIGHTS=ema DATA= DATA_NAME=]"
	@echo "                   what you state of the training: [OBJECTIVE=at AWP='gamma=0.01,warm_up=0'|none TWIN=name TRAINED_AGAINST= EPOCHS= EXTRA_DATA= AUTHORS= LINK= LICENCE=]"
	@echo "make work          measure what was submitted, for ever [SLOT=w1 INTAKE=intake.toml]"
	@echo "make table         write results/LEADERBOARD.md and .csv, and results/studies, again"
	@echo "make picture       take docs/board.png of the landing page anew (needs chromium); make check says when"
	@echo "make bench-board   how long visitors of 5,000 records wait, and the memory of the page process [ARRIVING=5: a record every 5 s]"
	@echo "make bench-start   how long commands take to answer, beside the bare interpreter [ROUNDS=5]"
	@echo "make gpu-check     what can only be seen on a GPU, in at most 8 minutes [ONLY='contract*' SECONDS=480; DEVICE=cpu QUICK=1 rehearses]"
	@echo "make bench-speed   time ours beside other libraries [ONLY='row …' THREADS=2 REPETITIONS= QUICK=1 YES=1]"
	@echo
	@echo "make check         lint, types, generated files up to date"
	@echo "make test-slow     the slower tests;  make test-browser: the pages in a real browser"
	@echo "make test-drills   30 kill -9 of workers over 10 submissions (about 10 min)"
	@echo "make test-hostile  hand in every hostile file there is, under limits;  make fuzz: mutate valid ones [SECONDS=600 SEED=]"
	@echo "make guard         compare every answer with that of another commit: BASE=commit [ONLY='attacks tables']"
	@echo "make setup         the virtual environment alone (TORCH=cpu: a CPU build of torch);  make lock: renew the lock"

setup: $(READY)

$(UV):
	@test -n "$(PY)" || { echo "no Python 3.11 or later with venv found; install one (Debian: apt install python3 python3-venv)"; exit 2; }
	$(PY) -m venv $(VENV)
	$(PYTHON) -m pip install -q --disable-pip-version-check "uv>=0.13,<0.14"

# --no-deps: the lock is complete. robustbench's wheel puts a package named tests beside ours: removed.
$(READY): $(LOCK) | $(UV)
ifeq ($(strip $(TORCH)),cpu)
	grep -vE '^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==' $(LOCK) > $(VENV)/lock-cpu.txt
	$(UV) pip install -q --python $(PYTHON) $(FIND_LINKS) --torch-backend=cpu $(CPU_TORCH) || \
	( $(UV) pip install -q --python $(PYTHON) $(FIND_LINKS) $(firstword $(CPU_TORCH)) && \
	  $(UV) pip install -q --python $(PYTHON) --no-deps $(lastword $(CPU_TORCH)) )
	$(UV) pip install -q --python $(PYTHON) --no-deps -r $(VENV)/lock-cpu.txt
else
	$(UV) pip install -q --python $(PYTHON) --no-deps -r $(LOCK)
endif
	rm -rf $$($(PYTHON) -c "import sysconfig; print(sysconfig.get_path('purelib'))")/tests
	touch $@

lock: $(UV)
	printf '%s\n' $(LOCKED_TORCH) | $(UV) pip compile -q --universal --python-version 3.11 -c - --extra board --extra train --extra zoo --extra host --extra dev pyproject.toml -o $(LOCK)

demo: setup
	@$(PYTHON) -m awp_train demo

test: setup
	$(PYTHON) -m pytest -q -n 2 -m "not slow and not browser and not hostile and not drill"

test-slow: setup
	$(PYTHON) -m pytest -q -n 2 --durations=20 -m "slow and not browser and not hostile and not drill"

test-drills: setup
	$(PYTHON) -m pytest -q -m drill

test-browser: setup
	$(PYTHON) -m pytest -q -m browser

# Files that strangers may hand in: each through its real entrance, in 5 s and 500 MB.
test-hostile: setup
	@$(PYTHON) -m tests.hostile
	$(PYTHON) -m pytest -q -n 2 -m hostile

fuzz: setup
	@$(PYTHON) -m tests.hostile.fuzz --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

# What the commit BASE answers and this tree does not: both are asked here, on one machine.
guard: setup
	@test -n "$(BASE)" || { echo "expected: make guard BASE=commit [ONLY='attacks tables']"; exit 2; }
	@$(PYTHON) -m tests.guard $(BASE) $(ONLY)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory -j2 check-types check-generated

.PHONY: check-types check-generated
check-types:
	$(BIN)/mypy

check-generated:
	$(PYTHON) -m bench table --check
	$(PYTHON) -m tests.board.picture --check
	$(PYTHON) -m awp_train retell --check

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What `all` prints are the checkpoint folders, which is what `evaluate` takes. Digits are measured on
# 400 images unless N says otherwise: three seeds then take less than 20 minutes on 2 cores.
FAMILY := $(or $(DATASET),digits)
MEASURED := $(or $(N),$(if $(filter digits,$(FAMILY)),400))

train-all: setup
	@folders=$$($(PYTHON) -m awp_train all --dataset $(FAMILY) --kept $(KEPT) \
		$(if $(ARCH),--arch $(ARCH)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ONLY),--only $(ONLY)) \
		$(if $(EXTRA),--extra "$(EXTRA)") $(if $(START),--start "$(START)") $(CONFIRM)) && \
	$(PYTHON) -m bench evaluate $$folders --protocol $(PROTOCOL) $(if $(MEASURED),--n $(MEASURED)) $(CONFIRM)
	@$(PYTHON) -m bench table --protocol $(PROTOCOL) $(if $(MEASURED),--n $(MEASURED))

study: setup
	@test -n "$(NAME)" || { echo "expected: make study NAME=digits-methods [SEEDS=6 YES=1]"; exit 2; }
	@$(PYTHON) -m awp_train study $(NAME) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ONLY),--only $(ONLY)) $(CONFIRM)

evaluate: setup
	$(PYTHON) -m bench evaluate --kept $(KEPT) --protocol $(PROTOCOL) $(if $(DATASET),--only-dataset $(DATASET)) \
		$(if $(ARCH),--only-arch $(ARCH)) $(if $(SEEDS),--only-seeds $(SEEDS)) $(if $(N),--n $(N)) $(CONFIRM)
	@$(PYTHON) -m bench table --quiet
	@$(PYTHON) -m awp_train retell

table: setup
	@$(PYTHON) -m bench table
	@$(PYTHON) -m awp_train retell

picture: setup
	@$(PYTHON) -m tests.board.picture

leaderboard: setup
	$(BIN)/streamlit run app.py

submit: setup
	@test -n "$(CHECKPOINT)" -a -n "$(ARCH)" -a -n "$(DATASET)" -a -n "$(NAME)" || \
		{ echo "expected: make submit CHECKPOINT=file ARCH=… DATASET=… NAME=… [THREAT=…]"; exit 2; }
	$(PYTHON) -m bench submit "$(CHECKPOINT)" --arch $(ARCH) --dataset $(DATASET) --name "$(NAME)" --protocol $(PROTOCOL) \
		$(if $(THREAT),--threat $(THREAT)) $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(MEAN),--mean $(MEAN)) $(if $(STD),--std $(STD)) $(if $(N),--n $(N)) \
		$(foreach pair,$(ARCH_ARGS),--arch-arg $(pair)) $(if $(DATA),--data $(DATA)) \
		$(if $(DATA_NAME),--dataset-name $(DATA_NAME)) $(CONFIRM) \
		$(if $(OBJECTIVE),--objective $(OBJECTIVE)) $(if $(AWP),--awp "$(AWP)") $(if $(TWIN),--twin "$(TWIN)") \
		$(if $(TRAINED_AGAINST),--trained-against $(TRAINED_AGAINST)) $(if $(EPOCHS),--epochs $(EPOCHS)) \
		$(if $(EXTRA_DATA),--extra-data "$(EXTRA_DATA)") $(if $(AUTHORS),--authors "$(AUTHORS)") \
		$(if $(LINK),--link "$(LINK)") $(if $(LICENCE),--licence "$(LICENCE)")
	@$(PYTHON) -m bench table --quiet
	@$(PYTHON) -m awp_train retell

work: setup
	$(PYTHON) -m bench work $(if $(SLOT),--slot $(SLOT)) $(if $(INTAKE),--intake "$(INTAKE)")

# Apart from our packages, and searched after them: torchattacks' wheel would overwrite robustbench.
$(PEERS)/.ready: requirements-peers.lock | $(READY)
	rm -rf $(PEERS)
	$(UV) pip install -q --python $(PYTHON) $(FIND_LINKS) --no-deps --target $(PEERS) -r requirements-peers.lock
	rm -rf $(PEERS)/robustbench
	touch $@

bench-speed: setup
	@$(MAKE) --no-print-directory $(PEERS)/.ready || echo "the peers are not all installed; the rows without them are timed" >&2
	@$(PYTHON) -m tests.speed $(foreach row,$(ONLY),--only $(row)) $(if $(THREADS),--threads $(THREADS)) \
		$(if $(REPETITIONS),--repetitions $(REPETITIONS)) $(if $(QUICK),--quick) $(CONFIRM)

bench-board: setup
	@$(PYTHON) -m tests.speed.board $(if $(REPETITIONS),--repetitions $(REPETITIONS)) $(if $(ARRIVING),--arriving $(ARRIVING)) $(if $(QUICK),--quick)

bench-start: setup
	@$(PYTHON) -m tests.speed.startup $(if $(ROUNDS),--rounds $(ROUNDS))

# Names may hold spaces: ONLY is one pattern, such as 'float32 *'.
gpu-check: setup
	@$(PYTHON) -m tests.gpu $(if $(DEVICE),--device $(DEVICE)) $(if $(ONLY),--only "$(ONLY)") \
		$(if $(SECONDS),--seconds $(SECONDS)) $(if $(QUICK),--quick)
