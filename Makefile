# Everything a person or a machine runs. Targets say what they do with `make help`.
SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help up down test upstream-test conformance conformance-ci vm-test bench lint

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

up: ## from nothing to a cluster on this machine that serves the demo (as root)
	@./deploy/up.sh

down: ## undo `make up`: the machine is as it was
	@./deploy/down.sh

test: ## all tests (as root: they make network namespaces and run containers)
	@./tests/run.sh

upstream-test: ## mixtures with upstream's own kubelet, kube-proxy and control plane (as root)
	@./tests/upstream-test.sh

conformance: ## upstream's e2e suite (as root); TARGET=, FOCUS=, SKIP=, TEST=, AGAIN=: see tests/conformance/run.sh
	@./tests/conformance/run.sh

conformance-ci: ## the part of it that must pass at every commit, tests/conformance/ci.txt (as root)
	@./tests/conformance/run.sh ci

vm-test: ## scenarios on a cluster of virtual machines (as root; half an hour)
	@./tests/vm/run.sh

bench: ## measure, and write tests/bench/RESULTS.md
	@./tests/bench/run.sh

lint: ## formatting, clippy and shellcheck
	@./tests/lint.sh
