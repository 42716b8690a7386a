# Every target does its own set-up on a Debian 12 machine with Rust, as root.
SHELL := /bin/bash
.DEFAULT_GOAL := help

CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
export DESTDIR PREFIX UNITDIR SYSCONFDIR
SANDPIPER := $(CARGO_TARGET_DIR)/release/sandpiper

.PHONY: bench-check bench-e2b compatibility help setup build install uninstall demo test sim integrity chaos fuzz check fmt openapi bench bench-control-plane deny clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install the packages that Sandpiper needs to run
	@scripts/setup.sh run

build: ## Build target/release/sandpiper
	@scripts/setup.sh build
	cargo build --release --locked --package sandpiper

install: build ## Install the binary and systemd units below PREFIX (/usr/local), or below DESTDIR
	@scripts/install.sh install $(SANDPIPER)

uninstall: ## Remove what `make install` installed; data stays
	@scripts/install.sh uninstall

demo: setup build ## Boot a microVM and run Python in it, from nothing
	@scripts/demo.sh $(SANDPIPER)

test: ## Install what the tests need and run all of them, real VMs included
	@scripts/test.sh

integrity: ## Pause, resume, capture and fork at random, CYCLES times (100), and miss no byte; watch a clock for 10 minutes
	@scripts/setup.sh test
	SANDPIPER_INTEGRITY_CYCLES=$${CYCLES:-100} SANDPIPER_CLOCK_SEC=600 \
		cargo nextest run --release --locked --workspace --no-capture \
		-E 'binary(e2e) & (test(integrity::) + test(a_clock_stays_right))'

fuzz: ## Make up input for everything that strangers send, SECONDS_EACH (300) for each of six targets, and keep what is new
	@scripts/setup.sh test
	@scripts/fuzz.sh $${SECONDS_EACH:-300} keep

chaos: ## Kill host agent, control planes and database at random during OPERATIONS (1000) random operations on real sandboxes
	@scripts/setup.sh test
	SANDPIPER_CHAOS_OPERATIONS=$${OPERATIONS:-1000} \
		cargo nextest run --release --locked --workspace --no-capture -E 'binary(e2e) & test(chaos::)'

sim: ## Let N histories (10000) from seed SEED (1) on happen in the simulated world; tell the smallest that breaks a law
	@scripts/setup.sh test
	SANDPIPER_SIMULATION_FIRST=$${SEED:-1} SANDPIPER_SIMULATION_HISTORIES=$${N:-10000} \
		cargo nextest run --release --locked --workspace --no-capture \
		-E 'binary(simulation) & test(=histories_break_no_law)'

check: ## The inner loop: format, lints, and tests without VMs
	@scripts/test.sh quick

fmt: ## Format the code
	cargo fmt --all

openapi: ## Write openapi/sandpiper.yaml from the handlers
	cargo build --release --quiet --locked --workspace --example openapi
	$(CARGO_TARGET_DIR)/release/examples/openapi >openapi/sandpiper.yaml.new
	mv openapi/sandpiper.yaml.new openapi/sandpiper.yaml

compatibility: build ## Write docs/compatibility.md and compatibility-e2b.md from a run of the published SDKs
	@SANDPIPER_WRITE_DOCS=1 SANDPIPER_TEST_TEMPLATES=$${SANDPIPER_TEST_TEMPLATES:-/var/cache/sandpiper/templates} \
		cargo nextest run --release --locked --workspace -E 'binary(e2e) & (test(wrenn::) | test(e2b::))'

bench: setup build ## Measure this machine: creates, commands, pauses, forks, against its own limits
	@scripts/bench.sh $(SANDPIPER)

bench-check: setup build ## The same, and fail where a promise of SPECIFICATION.md is not kept
	@scripts/bench.sh $(SANDPIPER) --check

bench-control-plane: build ## Measure the control plane alone, on SQLite and on PostgreSQL
	@scripts/setup.sh test
	@scripts/bench-control-plane.sh $(SANDPIPER)

bench-e2b: setup build ## Measure this machine through E2B's published SDKs: creates, files, many streams
	@scripts/setup.sh test
	@scripts/bench-e2b.sh $(SANDPIPER)

deny: ## Check dependencies' licences and sources
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check bans licenses sources

clean: ## Remove what was built
	cargo clean
