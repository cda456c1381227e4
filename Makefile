# Every routine is one target; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help up down logs test lint fix gen gen-check bench fuzz soak lock clean breaking
VENV ?= .venv
TEST_WORKERS ?= 2
PYTHON ?= python3
export PATH := $(abspath $(VENV))/bin:$(PATH)
PROTOS := $(shell cd proto && find heimdall buf -name '*.proto' | sort)
SERVICES := $(filter %_service.proto,$(PROTOS))
UV := $(VENV)/bin/uv pip
INSTALL := $(UV) install -q --python $(VENV)/bin/python

help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

up: $(VENV)/.ready ## Start Heimdall in the background: certificates, stores, servers, sample logs.
	@python deploy/local.py up

down: ## Stop it; the data stays.
	@test ! -x $(VENV)/bin/python || python deploy/local.py down

logs: ## Follow the server's log.
	@tail -n 100 -F .heimdall/server.log

test: $(VENV)/.ready-dev ## Run every test, with coverage, in TEST_WORKERS (2) processes.
	coverage erase
	coverage run -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)
	coverage combine -q
	coverage report

lint: $(VENV)/.ready-dev ## Lint protos, code, types and import rules.
	buf lint
	buf format --path proto/heimdall --diff --exit-code
	ruff check .
	ruff format --check .
	mypy
	lint-imports

fix: $(VENV)/.ready-dev ## Format, and mend what can be mended by itself.
	buf format --path proto/heimdall -w
	ruff check --fix .
	ruff format .

gen: $(VENV)/.ready-dev ## Regenerate gen/ from proto/.
	rm -rf gen/.new && mkdir -p gen/.new
	python -m grpc_tools.protoc -Iproto --python_out=gen/.new --mypy_out=quiet:gen/.new $(PROTOS)
	python -m grpc_tools.protoc -Iproto --grpc_python_out=gen/.new --mypy_grpc_out=quiet:gen/.new $(SERVICES)
	find gen/.new/heimdall gen/.new/buf -type d -exec sh -c 'printf "%s\n" "\"\"\"Generated from proto/; run make gen, never edit.\"\"\"" > $$1/__init__.py' _ {} \;
	touch gen/.new/heimdall/py.typed gen/.new/buf/py.typed
	rm -rf gen/python/heimdall gen/python/buf && mv gen/.new/heimdall gen/.new/buf gen/python/ && rmdir gen/.new

gen-check: gen ## Fail if gen/ isn't what proto/ says.
	git diff --exit-code -- gen
	test -z "$$(git ls-files --others --exclude-standard -- gen)"

breaking: $(VENV)/.ready-dev ## Fail if proto/ breaks what was released.
	buf breaking proto --against proto/released.binpb

bench: $(VENV)/.ready-dev ## Measure; QUICK=1 takes under two minutes, ROWS=1e9 sets the store that is asked. Results in bench-results/.
	python -m tests.bench $(if $(QUICK),--quick) $(if $(ROWS),--rows $(ROWS)) $(foreach section,$(ONLY),--only $(section))

SECONDS ?= 120
fuzz: $(VENV)/.ready-dev ## Fuzz every reader of foreign bytes for SECONDS (120) together; TARGETS="decode journal" for some.
	python -m tests.fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(TARGETS)

MINUTES ?= 15
soak: $(VENV)/.ready-dev ## Load a server for MINUTES (15): memory and descriptors must stay flat. Results in bench-results/soak/.
	python -m tests.soak --minutes $(MINUTES)

lock: $(VENV)/.uv ## Write the lock files anew: hashes, no hosts.
	$(UV) compile pyproject.toml --extra embedded --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --custom-compile-command 'make lock' -q -o requirements.lock
	$(UV) compile pyproject.toml --extra all --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --custom-compile-command 'make lock' -q -o requirements-dev.lock
	! grep -nE 'https?://' requirements.lock requirements-dev.lock

clean: down ## Stop it and delete its data, keys and certificates.
	@test ! -d .heimdall || python3 deploy/local.py clean
	rm -rf bench-results .fuzz .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.uv:
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check uv==0.13.9
	@touch $@

$(VENV)/.ready: $(VENV)/.uv requirements.lock pyproject.toml
	@$(INSTALL) --require-hashes --only-binary :all: -r requirements.lock
	@$(INSTALL) --no-deps -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.uv requirements-dev.lock pyproject.toml
	@$(INSTALL) --require-hashes --only-binary :all: -r requirements-dev.lock
	@$(INSTALL) --no-deps -e .
	@touch $(VENV)/.ready $@
