# The commands of a developer and of CI. From a fresh clone each needs Rust, Python 3 and pip only;
# make help lists them.

CARGO ?= cargo
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-files test matrix chaos manifests e2e compose own-app clients bench check readme pictures release-check

help: ## list these commands
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## fetch the MongoDB server and the Python packages of the tests, once
	$(PYTHON) tests/tools/setup >/dev/null

demo: setup ## check, plan, upgrade and check again on a real datalab database
	$(CARGO) build --locked --bin datalab-upgrade --example demo
	$(CARGO) run --locked --quiet --example demo

demo-files: setup ## the same for an application whose upgrades are files
	$(CARGO) build --locked --bin upgrade-gate --example demo
	$(CARGO) run --locked --quiet --example demo -- files

test: setup ## all tests, on real MongoDB servers; ARGS="record stamp" runs some of the binaries
	CARGO="$(CARGO)" $(PYTHON) tests/tools/test $(ARGS)

matrix: ## a part of the tests on MongoDB 4.4.2, 5.0.4 and 6.0.27; x86-64 only; ARGS="4.4.2 6.0.5"
	CARGO="$(CARGO)" $(PYTHON) tests/tools/matrix $(ARGS)

# CHAOS_ROUNDS or CHAOS_KILLS may say instead how much is enough; CHAOS_SEED repeats a campaign
ifeq ($(CHAOS_ROUNDS)$(CHAOS_KILLS),)
chaos: export CHAOS_SECONDS ?= 180
endif
chaos: setup ## the crash campaign; CHAOS_SECONDS=180 says how long
	$(CARGO) test --locked --test chaos -- --nocapture

manifests: setup ## chart, deploy/ and workflows as Helm, kubectl, Compose, actionlint read them; needs Go
	tests/cluster/build.sh helm3 helm4 kube compose rules actionlint
	.cache/cluster/bin/actionlint
	$(CARGO) test --locked --test chart --test deploy

e2e: setup ## everything on a real Kubernetes, started here; ARGS=part of a name, see tests/cluster/run.sh
	tests/cluster/run.sh $(ARGS)

compose: setup ## deploy/compose.yaml on a Docker engine, started here; needs root
	$(CARGO) test --locked --test compose

own-app: setup ## examples/own-app by the guide's commands, from the copy to its image; needs root
	$(CARGO) test --locked --test own_app_image -- --nocapture

release-check: setup ## a whole release, from the build to the installation; needs root, Go, Node, an hour cold
	release/check

# Node's packages go into the cache, not beside their list.
clients: setup ## the tests of the helpers for programs, in Python and for Node; needs Node
	cd clients/python && PYTHONPATH=../../.cache/python:. $(PYTHON) -B -m unittest discover -b -s tests
	@rm -rf .cache/clients-node && cp -r clients/node .cache/clients-node && rm -rf .cache/clients-node/node_modules
	@cd .cache/clients-node && npm ci --ignore-scripts --silent && npm test

# Built as the image is: static. ARGS=10000 is done in two minutes, and writes nothing.
bench: export MONGOD ?= $(CURDIR)/.cache/mongod-6.0.5/mongod
bench: HOST = $(shell rustc --print host-tuple)
bench: setup ## measure speed and memory, into benches/README.md; ARGS=datalab, update, programs or large for a part
	RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs" \
		$(CARGO) build --release --locked --target $(HOST) \
		--bin datalab-upgrade --bin upgrade-gate --example bare --example direct --example evaluate --example measure
	PYTHONPATH=.cache/python $(PYTHON) -B benches/run target/$(HOST)/release $(ARGS)

check: ## format, lints, documentation, licences
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --no-default-features --lib -- -D warnings
	$(CARGO) clippy --locked --all-targets --test chart --test deploy --test e2e --test compose --test own_app_image -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --lib --document-private-items
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		echo "$(CARGO) deny check bans licenses sources" && \
		$(CARGO) deny --locked check bans licenses sources; \
	else \
		echo "make check: cargo-deny is not installed, so dependencies and licences were not checked"; \
	fi

readme: setup ## update the generated tables of README, guide and chart, and the pictures of the program
	UPDATE=1 $(CARGO) test --locked --lib --test readme --test chart its_generated
	UPDATE=1 $(CARGO) test --locked --test operator the_guides_pictures

# Node's packages go into the cache, not beside their list.
pictures: ## read the drawings of README and guide with mermaid's own parser; needs Node
	@mkdir -p .cache/mermaid && cp tests/tools/mermaid/* .cache/mermaid
	@cd .cache/mermaid && npm ci --ignore-scripts --silent
	@node .cache/mermaid/check.mjs README.md docs/*.md docs/design/*.md
