# The commands of a developer and of CI. From a fresh clone each needs Rust, Python 3 and pip only;
# make help lists them.

CARGO ?= cargo
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help setup demo test chaos e2e check readme

help: ## list these commands
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## fetch the MongoDB server and the Python packages of the tests, once
	$(PYTHON) tests/tools/setup >/dev/null

demo: setup ## check, plan, upgrade and check again on a real datalab database
	$(CARGO) build --locked --bin datalab-upgrade --example demo
	$(CARGO) run --locked --quiet --example demo

test: setup ## all tests, on real MongoDB servers
	$(CARGO) test --locked --no-fail-fast

# CHAOS_ROUNDS or CHAOS_KILLS may say instead how much is enough; CHAOS_SEED repeats a campaign
ifeq ($(CHAOS_ROUNDS)$(CHAOS_KILLS),)
chaos: export CHAOS_SECONDS ?= 180
endif
chaos: setup ## the crash campaign; CHAOS_SECONDS=180 says how long
	$(CARGO) test --locked --test chaos -- --nocapture

e2e: setup ## everything on a real Kubernetes, started here; ARGS=part of a name, see tests/cluster/run.sh
	tests/cluster/run.sh $(ARGS)

check: ## format, lints, documentation, licences
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --lib --document-private-items
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		echo "$(CARGO) deny check bans licenses sources" && \
		$(CARGO) deny --locked check bans licenses sources; \
	else \
		echo "make check: cargo-deny is not installed, so dependencies and licences were not checked"; \
	fi

readme: ## write the generated tables of README and chart anew
	UPDATE=1 $(CARGO) test --locked --test readme --test chart its_generated
