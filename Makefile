# benchd: `make help` lists the targets. All of them set up what they need in $(VENV).
.DEFAULT_GOAL := help
.PHONY: help run test test-interop campaign check bench bench-compare build clean install install-user uninstall uninstall-user

PYTHON ?= python3
VENV ?= .venv
SAMPLE ?= sample
BIN := $(VENV)/bin
PURE := daemon/benchd/values.py,daemon/benchd/audit/*,daemon/benchd/selection/*,daemon/benchd/bench/*,daemon/benchd/settings/*
# Commands of users and tests must never ask, and never say what a developer does not need to read.
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "benchd needs Python 3.11 or newer; this is $$($(PYTHON) --version). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "No venv could be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	@echo "setting up $(VENV) ..."
	@$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.made pyproject.toml
	@echo "setting up $(VENV) with the tools of the developers ..."
	@$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed

run: $(VENV)/.installed ## watch a sample folder into which real audits are dropped
	@BENCHD=$(BIN)/benchd sh tests/sample.sh $(SAMPLE)

test: $(VENV)/.installed-dev ## all tests, with coverage
	@rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n auto --cov --cov-report= $(PYTEST_ARGS)
	@$(BIN)/coverage report --fail-under=95
	@$(BIN)/coverage report --include='$(PURE)' --fail-under=100 >/dev/null || { echo "the pure rooms must be covered wholly" >&2; exit 1; }

campaign: $(VENV)/.installed-dev ## the long form of the reliability campaigns (hours): CAMPAIGN=kill for one of them
	cd tests && "$(abspath $(BIN))/python" -m campaigns --long $(CAMPAIGN)

# PyTorch for the CPU is a tenth of the size, where there is one to be had.
TORCH ?= torch==2.13.0

$(VENV)-interop/.installed: pyproject.toml
	@echo "setting up $(VENV)-interop with the real Gradience and PEFT (minutes) ..."
	@$(PYTHON) -m venv $(VENV)-interop
	@$(VENV)-interop/bin/pip install --quiet '$(TORCH)+cpu' 2>/dev/null || $(VENV)-interop/bin/pip install --quiet '$(TORCH)'
	@$(VENV)-interop/bin/pip install --quiet --editable '.[interop]'
	@$(VENV)-interop/bin/pip install --quiet --no-deps --target $(VENV)-interop/peft-0.13 --upgrade peft==0.13.2
	@$(VENV)-interop/bin/pip install --quiet --target $(VENV)-interop/axolotl --upgrade addict pillow pydantic==2.12.5
	@$(VENV)-interop/bin/pip install --quiet --no-deps --target $(VENV)-interop/axolotl --upgrade axolotl==0.19.0
	@touch $@

test-interop: $(VENV)-interop/.installed ## the answers, held to the real Gradience, Bench and PEFT (minutes)
	$(VENV)-interop/bin/python -m pytest -W default tests/interop $(PYTEST_ARGS)

check: $(VENV)/.installed-dev ## ruff, formatting, types, the arrows between packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

BENCHMARKS := latency burst backlog growth large startup idle peers syscalls parts hops
RESULTS := benchmarks/results.json
BENCH_growth := $(if $(FULL),--full)
BENCH_peers := $(if $(FULL),--systemd)

bench: $(VENV)/.installed-dev ## measure everything (half an hour; FULL=1: an hour), for docs/performance.md
	@rm -f $(RESULTS)
	@place=$$(mktemp -d) && trap 'rm -rf "$$place"' EXIT && \
	  $(foreach name,$(BENCHMARKS),$(BIN)/python benchmarks/$(name).py --dir "$$place" --keep --results $(RESULTS) $(BENCH_$(name)) &&) \
	  $(BIN)/python benchmarks/report.py --results $(RESULTS)

BASE ?= HEAD
bench-compare: $(VENV)/.installed-dev ## is this checkout slower than BASE (a commit; HEAD)?
	@old=$$(mktemp -d) && trap 'git worktree remove --force "$$old"' EXIT && git worktree add --quiet --detach "$$old" $(BASE) && \
	  $(BIN)/python benchmarks/compare.py "$$old" . $(COMPARE_ARGS)

build: $(VENV)/.installed-dev ## the wheel and the source archive, in dist/
	@rm -rf dist
	$(BIN)/python -m build --no-isolation

# --- as a system service: systemd/README.md -----------------------------------------------------------------
PREFIX ?= /opt/benchd
UNITDIR ?= /usr/local/lib/systemd/system
USERUNITDIR ?= /usr/local/lib/systemd/user
SYSUSERSDIR ?= /usr/local/lib/sysusers.d
TMPFILESDIR ?= /usr/local/lib/tmpfiles.d
CONFDIR ?= /etc/benchd
# The service's user must be able to enter the folder that this Python lives in.
SYSTEM_PYTHON ?= $(firstword $(wildcard /usr/bin/python3) $(PYTHON))
PIP_INSTALL_ARGS ?=

install: $(VENV)/.made ## as a system service, below $(DESTDIR)
	@PIP="$(BIN)/pip" PYTHON="$(SYSTEM_PYTHON)" PIP_INSTALL_ARGS="$(PIP_INSTALL_ARGS)" DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" UNITDIR="$(UNITDIR)" \
	  USERUNITDIR="$(USERUNITDIR)" SYSUSERSDIR="$(SYSUSERSDIR)" TMPFILESDIR="$(TMPFILESDIR)" CONFDIR="$(CONFDIR)" sh systemd/install.sh

install-user: $(VENV)/.made ## as a service of your own, without root
	@PIP="$(BIN)/pip" PYTHON="$(PYTHON)" PIP_INSTALL_ARGS="$(PIP_INSTALL_ARGS)" DESTDIR="$(DESTDIR)" PREFIX="$$HOME/.local/share/benchd" FOR_USER=1 \
	  USERUNITDIR="$$HOME/.config/systemd/user" CONFDIR="$$HOME/.config/benchd" sh systemd/install.sh

uninstall-user: ## the reverse of install-user
	@DESTDIR="$(DESTDIR)" PREFIX="$$HOME/.local/share/benchd" FOR_USER=1 \
	  USERUNITDIR="$$HOME/.config/systemd/user" CONFDIR="$$HOME/.config/benchd" sh systemd/uninstall.sh

uninstall: ## the reverse; audits, configs and settings stay
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" UNITDIR="$(UNITDIR)" USERUNITDIR="$(USERUNITDIR)" \
	  SYSUSERSDIR="$(SYSUSERSDIR)" TMPFILESDIR="$(TMPFILESDIR)" CONFDIR="$(CONFDIR)" sh systemd/uninstall.sh

clean: ## remove what the other targets made
	rm -rf $(VENV) $(VENV)-interop $(SAMPLE) dist build .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
