# Every target sets up what it needs: a virtual environment with the locked, hash-checked packages.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ifneq ($(origin PYTHON),file)  # chosen: not whatever Python an earlier goal took
READY  := $(READY)-$(subst /,-,$(lastword $(PYTHON)))
endif
CORES  ?= $(shell getconf _NPROCESSORS_ONLN)

# Hundreds of processes start in the tests: each would compile the same files once more.
unexport PYTHONDONTWRITEBYTECODE

# Decisions and formats, without I/O: each wholly covered by the test file of its own name.
PURE := gateway/protocol gateway/decoding gateway/session gateway/delivery gateway/frames gateway/why \
        gateway/policies gateway/wishes gateway/dryrun gateway/sentences \
        gateway/auth gateway/config/auth gateway/config/sections gateway/config/values gateway/config/push \
        gateway/config/credentials gateway/config/content gateway/config/settings \
        gateway/config/environment gateway/config/reading gateway/config/development \
        gateway/config/reload gateway/config/starter \
        gateway/kit/behaviours gateway/kit/masking gateway/kit/received gateway/kit/advice \
        gateway/clientside/errors gateway/clientside/told gateway/clientside/timeline \
        gateway/clientside/outbox gateway/clientside/marks gateway/clientside/comeback \
        gateway/clientside/notifications \
        push/ring push/content push/signing push/credentials push/oauth push/verdicts push/retry \
        push/guard push/breaker push/lane push/backends \
        $(basename $(filter-out %/__init__.py,$(wildcard push/adapters/*.py))) \
        storage/records storage/vault storage/outcomes \
        gateway/campaigns/audience gateway/addresses gateway/seats

.PHONY: demo demo-web test soak mutate cover lint serve bench lock screenshots clean

demo: $(READY)            ## the whole story, live, in the terminal (ARGS=--serve leaves it running)
	$(BIN)/python -m examples.demo $(ARGS)

demo-web: $(READY)        ## the same to play with in a browser (ARGS="--port 8090" to choose)
	$(BIN)/python -m examples.demo --web $(ARGS)

test: $(READY)            ## the whole suite, on all cores (ARGS="-k resume" to choose, ARGS="-n0" in one process)
	$(BIN)/python -m pytest -n $(CORES) --maxprocesses 8 --dist worksteal $(ARGS)

soak: $(READY)            ## every fault at its long scale, and one table (ARGS="--only kill")
	$(BIN)/python -m tests.soak $(ARGS)

mutate: $(READY)          ## break the code on purpose, and see that something notices
	$(BIN)/python -m tests.mutations $(ARGS)

cover: $(READY)           ## each pure module is covered to 100 % by its own test file
	@$(MAKE) --no-print-directory -j $(CORES) $(PURE:%=.cover/%)
	@rm -rf .cover

# FORCE: what is made is a report, not this file, and a directory may have its name.
.cover/%: FORCE
	@mkdir -p $(@D)
	@COVERAGE_FILE=$@.data $(BIN)/python -m pytest -q -p no:cacheprovider --no-header \
	    tests/$(*D)/test_$(*F).py \
	    --cov=$(subst /,.,$*) --cov-branch --cov-fail-under=100 --cov-report=term-missing:skip-covered \
	    >$@.log 2>&1 \
	    && echo "100 %  $*" || { cat $@.log; echo "not 100 %: $*"; exit 1; }

FORCE:

lint: $(READY)            ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: $(READY)           ## a development gateway on loopback
	$(BIN)/ringback serve $(ARGS)

bench: $(READY)           ## every bar beside its reference, and one table (ARGS=--quick to try it)
	$(BIN)/python -m bench $(ARGS)

lock:                     ## renew the locks from pyproject.toml: of everything, of serving alone (needs uv)
	uv pip compile pyproject.toml --extra backend --group dev --universal \
	    --python-version 3.11 \
	    --generate-hashes --upgrade --quiet -o requirements.lock
	uv pip compile pyproject.toml --group build --universal --python-version 3.11 \
	    --generate-hashes --constraints requirements.lock --quiet -o requirements-serve.lock

screenshots: $(READY)     ## the README's pictures, of the real thing in Chromium (ARGS="--all DIR": every page and state)
	$(BIN)/python -m tests.web.screenshots $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Ringback needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo "this Python cannot make virtual environments; on Debian: apt-get install $(notdir $(PYTHON))-venv"; exit 1; }
	@echo "setting up $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@# --no-deps: the lock names everything; resolving again may prefer a newer release and fail.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	    -r requirements.lock \
	    || { echo "what requirements.lock names could not be installed: pip says why. It comes from PyPI, or from where" \
	              "PIP_INDEX_URL or PIP_FIND_LINKS say"; exit 1; }
	@$(BIN)/python -m pip check --disable-pip-version-check >/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.ready
