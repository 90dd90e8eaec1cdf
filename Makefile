# `make run` and `make test` need only make and Python 3.11 or newer. They install everything else into .venv.
PYTHON ?= python3
BIN := .venv/bin
EMULATOR_PORT ?= 9000
ROUNDS ?= 5
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 0

.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

run: .venv/run.stamp ## serve on HOST and PORT (127.0.0.1:8000): on Gemini with GEMINI_API_KEY, else on the emulator
	@$(BIN)/python -m app --demo-without-key

emulator: .venv/run.stamp ## serve only the emulator of the Gemini API, on EMULATOR_PORT (9000)
	@$(BIN)/python -m app.emulator --port $(EMULATOR_PORT)

test: .venv/dev.stamp ## run every test that needs no key
	$(BIN)/python -m pytest -n 4

test-slow: .venv/dev.stamp ## 2,000 generations with every failure, overload, crashes, rolling restarts, PostgreSQL and S3; twelve minutes
	$(BIN)/python -m pytest -m slow -s --ignore tests/test_crashes.py
	$(BIN)/python -m pytest -m slow -n 3 tests/test_crashes.py
	$(BIN)/python -m pytest --hypothesis-profile=thorough tests/test_base64_json.py tests/test_image_headers.py

test-install: .venv/dev.stamp ## install our own wheel and Next.js from the registries, and try them; two minutes, needs npm
	$(BIN)/python -m pytest -m install

test-clients: .venv/clients.stamp ## drive OpenAI's libraries and the AI SDK against /v1; one minute, needs npm
	$(BIN)/python -m pytest -m clients

test-browser: .venv/browser.stamp ## use the playground in Chromium, with axe-core and screenshots; needs chromium (Debian) and npm
	$(BIN)/python -m pytest -m browser

check-web: ## check the types of the playground's JavaScript; needs npm
	npx --yes --package=typescript@7.0.2 -- tsc --project tests/browser/tsconfig.json

check: .venv/dev.stamp ## check types, style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-live: .venv/dev.stamp ## compare the emulator with Google: about twelve calls with your GEMINI_API_KEY, about 0.35 USD
	$(BIN)/python -m pytest -m live -s

bench: .venv/bench.stamp ## measure this service beside other implementations, about 30 minutes; ROUNDS=1 is faster and less exact
	$(BIN)/python -m benchmarks --rounds $(ROUNDS)

fuzz: .venv/fuzz.stamp ## search for inputs that break the base64 extractor or the response parser, FUZZ_SECONDS (60) each; FUZZ_SEED=1 takes the same way each time
	@mkdir -p .fuzz/base64_json .fuzz/responses
	$(BIN)/python -m tests.fuzz_base64_json -max_total_time=$(FUZZ_SECONDS) -seed=$(FUZZ_SEED) -print_final_stats=1 .fuzz/base64_json
	$(BIN)/python -m tests.fuzz_responses -max_total_time=$(FUZZ_SECONDS) -seed=$(FUZZ_SEED) -print_final_stats=1 .fuzz/responses

container: .venv/dev.stamp ## build the container; run it, compose.yaml and the Kubernetes demo; needs root and podman
	$(BIN)/python -m tests.containers

sbom: .venv/sbom.stamp ## write sbom.cdx.json (CycloneDX) and docs/licences.md: what is in the container
	@rm -rf .sbom && $(PYTHON) -m venv .sbom
	.sbom/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/container.txt
	$(BIN)/cyclonedx-py environment .sbom/bin/python --pyproject pyproject.toml --output-reproducible -o sbom.cdx.json
	@{ printf '# Licences\n\nOf what is in the container, as each package declares it; `make sbom` writes this page.\n\n'; \
		$(BIN)/pip-licenses --python=.sbom/bin/python --from=mixed --format=markdown --ignore-packages pip setuptools; \
		} > docs/licences.md
	@rm -rf .sbom

doctor: .venv/run.stamp ## check settings, credentials, models, storage and clock, without paid calls
	@$(BIN)/python -m app doctor

lock: .venv/dev.stamp ## write requirements/*.txt again, with the newest versions and their hashes
	$(BIN)/python -m pip install --quiet uv
	@for lock in 'service' 'demo --extra demo' 'container --extra demo --extra telemetry' 'dev --extra dev' \
		'bench --extra bench' 'fuzz --extra fuzz' 'clients --extra clients' 'browser --extra browser' 'sbom --extra sbom'; do \
		set -- $$lock; name=$$1; shift; \
		$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
			--no-emit-index-url --no-emit-find-links --no-header --no-annotate --no-emit-package gemini-images \
			"$$@" pyproject.toml -o requirements/$$name.txt; \
	done

# A lock file is complete: without --no-deps an older pip looks for newer versions, finds one, and fails.
.venv/run.stamp: requirements/demo.txt | .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

.venv/dev.stamp: requirements/dev.txt | .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@ .venv/run.stamp

.venv/browser.stamp .venv/clients.stamp: .venv/dev.stamp

.venv/bench.stamp .venv/browser.stamp .venv/clients.stamp .venv/fuzz.stamp .venv/sbom.stamp: .venv/%.stamp: requirements/%.txt .venv/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.13")'
	@echo 'Installing into .venv, once; it takes about 20 seconds.'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.PHONY: help run emulator test test-slow test-install test-clients test-browser test-live check check-web bench fuzz container sbom doctor lock
