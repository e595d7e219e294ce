# Every target runs `setup` first, which takes no time once it is done.
#   PYTHON=...  the Python to set up with      ARGS=...  passed on to the server or to pytest
python := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup serve test check bench-peers

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## install everything into .venv (again after a change of requirements)
	@PYTHON='$(PYTHON)' tools/setup.sh

serve: setup ## start the server; ARGS='--model-path Qwen/Qwen3-8B --port 8000'
	@exec $(python) -m autellix_sgl.launch_server $(ARGS)

test: setup ## run all tests; ARGS='-m "not engine"' for those that start no server
	@$(python) -m pytest $(ARGS)

check: setup ## lint, formatting, types
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy

bench-peers: setup ## fetch vLLM for CPUs and ThunderAgent, for python -m bench.run
	@bench/peers.sh
