# Everything that a person or CI runs. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)

synced := .venv/.synced
lab := molecule/shared

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(synced) ## .venv with all tools, as uv.lock says

# One of the hosts has a sudo that asks for a password: -K, by a file.
mesh hosts: export ANSIBLE_BECOME_PASSWORD_FILE := $(CURDIR)/$(lab)/sudo-password

mesh: hosts ## three systemd hosts on this machine, and on them the mesh by site.yml
	@printf '── Mesh: ansible-playbook site.yml\n'
	@ansible-playbook site.yml
	@printf '%s\n' '' \
	  'Look inside:' \
	  '  ssh -F inventory/local/.ssh/config openclaw@trishula-mac    an agent on a host (or trishula-agni, trishula-rushabdev):' \
	  '    trishula status                                             links, agents, what waits' \
	  '  ssh -F inventory/local/.ssh/config root@trishula-mac        its operator:' \
	  '    journalctl -u trishula-node                                 what its node said' \
	  '  make down                            removes it all'

hosts: $(synced) ## only the three hosts, bare
	@scripts/engine up
	@scripts/base-image
	@printf '── Hosts: mac, agni, rushabdev\n'
	@ansible-playbook $(lab)/create.yml $(lab)/prepare.yml

down: $(synced) ## remove the hosts, their network and their secrets; leave the engine as it was found
	@if scripts/engine installed; then \
	  scripts/engine up && ansible-playbook $(lab)/destroy.yml && scripts/engine down; \
	else \
	  echo 'No Docker engine here, so no hosts.'; \
	fi

demo: $(synced) ## three nodes as processes: no Docker, no root
	@trishula demo

test: $(synced) ## lint, the Python tests, three converged hosts with short faults: about 15 minutes on 2 cores
	@scripts/test

test-all: $(synced) ## what CI runs: the long tests, too, and every scenario on converged hosts: about an hour
	@scripts/test --all $(PARTS)

lint: $(synced) ## ruff, mypy --strict, yamllint, ansible-lint, shellcheck
	ruff check .
	ruff format --check .
	mypy
	yamllint --strict .
	ansible-lint
	shellcheck -x scripts/engine scripts/base-image scripts/venv scripts/test scripts/python-tests scripts/overheard .ci/run $(lab)/router

unit: $(synced) ## the Python tests alone, without Docker
	@scripts/python-tests

soak: $(synced) ## schedules of the simulation for SECONDS (60), from SEED on; the last line is JSON
	@PYTHONPATH=tests python -m simulation.soak --seconds $(or $(SECONDS),60) --seed $(or $(SEED),$(shell date +%s))

format: $(synced) ## let ruff mend what it can
	ruff check --fix-only .
	ruff format .

clean: ## remove .venv, the caches and the images of the hosts
	-docker image rm --force trishula/host:12 trishula/host:13 trishula/debian:12 trishula/debian:13 2>/dev/null
	rm -rf .venv .uv .ansible .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(synced): pyproject.toml uv.lock scripts/venv scripts/uv.txt
	@scripts/venv

.PHONY: help venv mesh hosts down demo test test-all lint unit soak format clean
