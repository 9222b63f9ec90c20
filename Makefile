# Everything that a person or CI runs. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)

venv := .venv/.synced
lab := molecule/shared

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

mesh: hosts ## three systemd hosts on this machine, and on them the mesh by site.yml
	@printf '── Mesh: ansible-playbook site.yml\n'
	@ansible-playbook site.yml
	@printf '%s\n' '' \
	  'Look inside:' \
	  '  docker exec -it trishula-mac bash    a shell on a host (or trishula-agni, trishula-rushabdev); there:' \
	  '    trishula status                      links, agents, what waits' \
	  '    journalctl -u trishula-node          what its node said' \
	  '  make down                            removes it all'

hosts: $(venv) ## only the three hosts, bare
	@scripts/engine up
	@scripts/base-image
	@printf '── Hosts: mac, agni, rushabdev\n'
	@ansible-playbook $(lab)/create.yml $(lab)/prepare.yml

down: $(venv) ## remove the hosts, their network and their secrets; leave the engine as it was found
	@if scripts/engine installed; then \
	  scripts/engine up && ansible-playbook $(lab)/destroy.yml && scripts/engine down; \
	else \
	  echo 'No Docker engine here, so no hosts.'; \
	fi

demo: $(venv) ## three nodes as processes: no Docker, no root
	@trishula demo

test: $(venv) ## what CI runs: lint, all Python tests, the converged hosts
	@scripts/test

lint: $(venv) ## ruff, mypy --strict, yamllint, ansible-lint, shellcheck
	ruff check .
	ruff format --check .
	mypy
	yamllint --strict .
	ansible-lint
	shellcheck -x scripts/engine scripts/base-image scripts/venv scripts/test .ci/run

unit: $(venv) ## the Python tests alone, without Docker
	pytest

format: $(venv) ## let ruff mend what it can
	ruff check --fix-only .
	ruff format .

clean: ## remove .venv, the caches and the images of the hosts
	-docker image rm --force trishula/host trishula/debian:12 2>/dev/null
	rm -rf .venv .uv .ansible .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(venv): pyproject.toml uv.lock scripts/venv scripts/uv.txt
	@scripts/venv

.PHONY: help mesh hosts down demo test lint unit format clean
