# Each target sets up what it needs, then works. LIBTORCH, QFORMER_CACHE and PYTHON are passed on: see scripts/setup --help.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The libraries with an interface of their own; their documentation must build without a warning.
DOCUMENTED := Torch TorchNN Checkpoints Tokenizers Media QFormer Backbones Pipelines Evaluation Training

# What cannot be had (exit 69: a package has gone, no network) must not keep the tests that do without it from running:
# they say so and skip. Anything else is an error.
IF_OFFERED = || { status=$$?; [[ $$status -eq 69 ]] && echo "note: going on without it"; }

.PHONY: help setup models data moving-stamps build demo test train-stamps format lint docs clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

setup: ## Debian packages, .venv, LibTorch in .libtorch
	@scripts/setup

models: setup ## the small real models, into the cache
	@scripts/fetch-models

data: setup ## stamps, emoji, cut-outs and demo pictures, into the cache
	@scripts/fetch-data

moving-stamps: data ## clips with sound and questions, and stills, rendered into the cache
	@scripts/make-moving-stamps
	@scripts/make-moving-stamps --stills 6000 600

build: setup ## the command line, built for speed: .build/release/qformer
	@swift build -c release --product qformer

demo: build models data ## captions, matches and maps of never-seen photographs
	@scripts/demo

test: setup ## all tests
	@scripts/fetch-models $(IF_OFFERED)
	@scripts/fetch-data $(IF_OFFERED)
	@swift test

train-stamps: build models data ## trains an adapter on the stamps: stage 1, words, stage 2
	@.build/release/qformer train Recipes/stamps-stage1.yaml
	@.build/release/qformer train Recipes/stamps-words.yaml
	@.build/release/qformer train Recipes/stamps-stage2.yaml

format: ## rewrites the Swift sources in the house style
	@swift format --in-place --parallel --recursive Package.swift Sources Tests

lint: ## checks the house style
	@swift format lint --strict --parallel --recursive Package.swift Sources Tests

docs: setup ## the documentation, under .build/plugins/Swift-DocC/outputs; a warning is an error
	@swift package generate-documentation --warnings-as-errors $(DOCUMENTED:%=--target %)

clean: ## removes what was built; keeps .libtorch, .venv and the cache
	@rm -rf .build
