# What people run. `make demo` and `make test` install the Debian packages they need.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CARGO ?= cargo
SEEDS ?= 10000
SEED ?=
ADAPTER ?=
KILLS ?= 200
HOST_PACKAGES := systemd-container mmdebstrap debian-archive-keyring rsync openssh-client iproute2 nftables gcc libc6-dev python3 procps
TEST_PACKAGES := $(HOST_PACKAGES) openssh-server openssl strace python3-venv

.PHONY: help demo test crash chaos fuzz bench lint fmt schema deps test-deps

help:
	@echo "make demo    take a lane through its whole life on a host that boots here"
	@echo "make test    every check: formatting, lints, unit, property, snapshot and real-host tests"
	@echo "make crash   $(SEEDS) stories in which everything fails, simulated, each point of a run too;"
	@echo "             SEED=n replays one, ADAPTER=aws, azure, gcp or fake takes that alone"
	@echo "make chaos   $(KILLS) kills, cut networks, full disks and reboots on hosts that really boot"
	@echo "make fuzz    every parser with made-up input, FUZZ_SECONDS each (60)"
	@echo "make bench   how long planning and digesting take"
	@echo "make lint    formatting, clippy, docs, dependency policy"
	@echo "make fmt     format the sources, the provider adapters too"
	@echo "make schema  write schemas/lane.schema.json anew"

deps:
	@tests/install-packages.sh $(HOST_PACKAGES)

test-deps:
	@tests/install-packages.sh $(TEST_PACKAGES)
	@tests/install-moto.sh

demo: deps
	$(CARGO) build --locked --profile demo
	$(SUDO) tests/demo.sh target/demo/lane

test: test-deps lint
	tests/run-tests.sh

# One seed: make crash SEED=118 ADAPTER=aws
crash:
	LANE_CRASH_SEED=$(SEED) LANE_CRASH_ADAPTER=$(ADAPTER) LANE_CRASH_SEEDS=$(SEEDS) \
	  $(CARGO) test --locked --profile demo --lib $(if $(SEED),sim::i1_to_i20,sim::) -- --nocapture --test-threads=1

chaos: test-deps
	LANE_CHAOS_KILLS=$(KILLS) $(CARGO) test --locked --test it chaos:: -- --nocapture --test-threads=1

fuzz:
	fuzz/run.sh

bench: deps
	$(CARGO) bench --locked

lint:
	$(CARGO) fmt --check
	rustfmt --check --edition 2024 src/provider/adapters/*.rs
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	tests/check-policy.sh

fmt:
	$(CARGO) fmt
	rustfmt --edition 2024 src/provider/adapters/*.rs

schema:
	$(CARGO) run --locked --quiet -- schema > schemas/lane.schema.json.new
	mv schemas/lane.schema.json.new schemas/lane.schema.json
