# Every routine is one target; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: gen
VENV ?= .venv
export PATH := $(abspath $(VENV))/bin:$(PATH)
PROTOS := $(shell cd proto && find heimdall buf -name '*.proto' | sort)
SERVICES := $(filter %_service.proto,$(PROTOS))

gen: ## Regenerate gen/ from proto/.
	rm -rf gen/python/heimdall gen/python/buf && mkdir -p gen/python
	python -m grpc_tools.protoc -Iproto --python_out=gen/python --mypy_out=quiet:gen/python $(PROTOS)
	python -m grpc_tools.protoc -Iproto --grpc_python_out=gen/python --mypy_grpc_out=quiet:gen/python $(SERVICES)
	find gen/python/heimdall gen/python/buf -type d -exec sh -c 'printf "%s\n" "\"\"\"Generated from proto/; run make gen, never edit.\"\"\"" > $$1/__init__.py' _ {} \;
	touch gen/python/heimdall/py.typed gen/python/buf/py.typed
