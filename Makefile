# Everything Larder is built, tested and checked with. `make` alone prints this list; ARCHITECTURE.md says how the tests stand on it.
# All that is built or fetched goes below LARDER_CACHE; nothing but the sources lies in the repository.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

LARDER_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/larder
CARGO_TARGET_DIR ?= $(LARDER_CACHE)/target
export LARDER_CACHE CARGO_TARGET_DIR

.DEFAULT_GOAL := help
.PHONY: help build demo test check bench fuzz accept setup tools

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: tools ## the release binary, `larder`
	cargo build --release --locked
	@echo "$(CARGO_TARGET_DIR)/release/larder"

demo: tools ## the pizza shop in one process: no server needed
	cargo run --release --locked -- demo

test: setup ## all tests, those against real MySQL and Kafka servers included
	cargo test --locked

check: tools ## formatting, lints, house rules, dependencies
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked --test tidy
	@scripts/deny

bench: tools ## the benches, each against a bound measured in the same run
	cargo bench --locked

fuzz: ## fuzzes what reads bytes from outside: FUZZ_SECONDS for each target, 60 unless set
	@scripts/fuzz

accept: tools ## takes what the scenarios give now as what they should give; read the difference before a commit
	LARDER_ACCEPT=1 cargo test --locked --test scenarios
	git --no-pager diff --stat -- fixtures

setup: ## what the tests need: packages, a container engine, images (does nothing twice)
	@scripts/setup

tools: # a compiler and what our C libraries need; part of setup
	@scripts/setup tools
