# Entry points for people; the work is done by `cargo xtask` (xtask/src, one file per task).

CARGO ?= cargo
.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow test-kvm test-kernel py bench bench-kvm build lint fmt clean need-cargo

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

quickstart: need-cargo ## from nothing to a command in a microVM; says how long each phase took
	@$(CARGO) xtask quickstart

test: need-cargo ## install what tests need, build, run all tests, also those that boot microVMs
	@$(CARGO) xtask test

test-slow: need-cargo ## run the tests that take minutes or the whole host, which `make test` leaves
	@$(CARGO) xtask test-slow

test-kvm: need-cargo ## run the tests of the engine kvm; in an emulated host where KVM is not usable
	@$(CARGO) xtask test-kvm

py: need-cargo ## build the Python wheel, install it into target/python, check its types and test it
	@$(CARGO) xtask py

test-kernel: need-cargo ## build the tuned kernel, which takes minutes, and test guests that boot it
	@$(CARGO) xtask test-kernel

bench: need-cargo ## measure what SPECIFICATION.md promises, beside a baseline in the same run
	@$(CARGO) xtask bench

bench-kvm: need-cargo ## measure the engine kvm beside QEMU; in an emulated host where KVM is not usable
	@$(CARGO) xtask bench-kvm

build: need-cargo ## smolvm, smolvm-vmm and the static smolvm-agent, in target/release
	@$(CARGO) xtask build

lint: need-cargo ## check format, clippy and documentation; warnings are errors
	@$(CARGO) xtask lint

fmt: need-cargo ## format the sources
	@$(CARGO) xtask fmt

clean: need-cargo ## remove build results (target); sandboxes, images and packages stay
	@$(CARGO) clean

need-cargo:
	@command -v $(CARGO) >/dev/null || { \
	  echo "error: $(CARGO) is not in PATH; install Rust 1.91 or newer, for example with rustup" >&2; \
	  exit 1; }
