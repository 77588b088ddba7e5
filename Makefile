# Two commands do all: `make run` starts the server, `make test` passes all tests.
# They install what is missing when they may, and say what they cannot do.

VENV := .venv
BIN := $(VENV)/bin
IMAGE_LANGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test bench lint format engine services browser node-clients images venv docs clean

help:  ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 15

run: images  ## Start the server in the foreground.
	@exec $(BIN)/kernelgate

test: images services browser node-clients lint  ## Lint, types, all tests, with real services, browser and clients.
	@echo "== tests"
	@exec $(BIN)/python -m pytest

bench: images  ## Measure, with ratios to a bare kernel and to a stock gateway.
	@$(BIN)/python -m benchmarks

lint: venv  ## Style and types.
	@scripts/step "ruff" sh -c '$(BIN)/ruff check -q . && $(BIN)/ruff format -q --check .'
	@scripts/step "mypy" $(BIN)/mypy

format: venv  ## Put the source in shape.
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format -q .

engine:  ## Make sure that a Docker engine answers.
	@scripts/engine

services:  ## Make sure that the Redis and MinIO that tests start are installed.
	@scripts/services

browser:  ## Make sure that the Chromium that tests drive is installed.
	@scripts/browser

node-clients:  ## Install what the tests' clients in Node need.
	@scripts/node-clients

images: venv engine  ## Build the images that kernels run in.
	@$(BIN)/kernelgate images build $(IMAGE_LANGS)

venv:  ## Make the virtual environment.
	@scripts/venv $(VENV)

docs: venv  ## Write what is generated from the settings: .env.example and the tables in docs/.
	@$(BIN)/kernelgate config template > .env.example
	@sed -i '/^<!-- generated/q' docs/configuration.md
	@$(BIN)/kernelgate config table >> docs/configuration.md

clean:  ## Remove the virtual environment and caches; images and containers stay.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
