# benchd: `make help` lists the targets. Each target installs what it needs into $(VENV).
.DEFAULT_GOAL := help
.PHONY: help run test test-lowest test-interop campaign check generate docs bench bench-compare build clean \
  install install-user uninstall uninstall-user

PYTHON ?= python3
VENV ?= .venv
SAMPLE ?= sample
BIN := $(VENV)/bin
PURE := daemon/benchd/audit/*,daemon/benchd/selection/*,daemon/benchd/bench/*,daemon/benchd/settings/*
NEW_PIP := 'pip>=25.1'  # the first version with dependency groups; no change if pip is new enough
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "benchd needs Python 3.11 or newer; this is $$($(PYTHON) --version). Choose another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	@echo "setting up $(VENV) ..."
	@$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.made pyproject.toml
	@echo "setting up $(VENV) with the development tools ..."
	@$(BIN)/pip install --quiet $(NEW_PIP)
	@$(BIN)/pip install --quiet --editable . --group dev
	@touch $@ $(VENV)/.installed

run: $(VENV)/.installed ## watch a sample folder and drop real audits into it
	@BENCHD=$(BIN)/benchd sh tests/sample.sh $(SAMPLE)

test: $(VENV)/.installed-dev ## run all tests and measure coverage
	@rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n auto --cov --cov-report= $(PYTEST_ARGS)
	@$(BIN)/coverage report --fail-under=95
	@$(BIN)/coverage report --include='$(PURE)' --fail-under=100 >/dev/null || { echo "the pure packages need 100 % coverage" >&2; exit 1; }

$(VENV)-lowest/.installed: pyproject.toml tools/lowest.py
	@echo "setting up $(VENV)-lowest with the lowest allowed version of each dependency ..."
	@$(PYTHON) -m venv --clear $(VENV)-lowest
	@$(VENV)-lowest/bin/python tools/lowest.py > $(VENV)-lowest/lowest.txt
	@$(VENV)-lowest/bin/pip install --quiet $(NEW_PIP)
	@$(VENV)-lowest/bin/pip install --quiet --constraint $(VENV)-lowest/lowest.txt --editable . --group test
	@touch $@

# Leaves out slow tests and benchmarks. Needs Python 3.11: old versions have no wheels for newer ones.
test-lowest: $(VENV)-lowest/.installed ## run the tests with the lowest allowed version of each dependency
	$(VENV)-lowest/bin/python -m pytest -n auto -m "not slow" --ignore tests/project/test_benchmarks.py $(PYTEST_ARGS)

campaign: $(VENV)/.installed-dev ## run the long reliability campaigns (hours); CAMPAIGN=kill runs one of them
	cd tests && "$(abspath $(BIN))/python" -m campaigns --long $(CAMPAIGN)

# The CPU build of PyTorch is ten times smaller; not every package index has it.
TORCH ?= torch==2.13.0

$(VENV)-interop/.installed: pyproject.toml
	@echo "setting up $(VENV)-interop with the real Gradience and PEFT (minutes) ..."
	@$(PYTHON) -m venv $(VENV)-interop
	@$(VENV)-interop/bin/pip install --quiet '$(TORCH)+cpu' 2>/dev/null || $(VENV)-interop/bin/pip install --quiet '$(TORCH)'
	@$(VENV)-interop/bin/pip install --quiet $(NEW_PIP)
	@$(VENV)-interop/bin/pip install --quiet --editable . --group interop
	@$(VENV)-interop/bin/pip install --quiet --no-deps --target $(VENV)-interop/peft-0.13 --upgrade peft==0.13.2
	@$(VENV)-interop/bin/pip install --quiet --target $(VENV)-interop/axolotl --upgrade addict pillow pydantic==2.12.5
	@$(VENV)-interop/bin/pip install --quiet --no-deps --target $(VENV)-interop/axolotl --upgrade axolotl==0.19.0
	@touch $@

test-interop: $(VENV)-interop/.installed ## test the answers with the real Gradience, Bench and PEFT (minutes)
	$(VENV)-interop/bin/python -m pytest -W default tests/interop $(PYTEST_ARGS)

check: $(VENV)/.installed-dev ## run ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generate: $(VENV)/.installed-dev ## write the files that are generated from the code
	@$(BIN)/python tools/generate.py

$(VENV)/.installed-docs: $(VENV)/.made pyproject.toml
	@echo "setting up $(VENV) with the tools for the documentation site ..."
	@$(BIN)/pip install --quiet $(NEW_PIP)
	@$(BIN)/pip install --quiet --group docs
	@touch $@

# No --quiet: MkDocs would not count the warnings.
docs: $(VENV)/.installed-docs ## build the documentation site in site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

BENCHMARKS := latency burst backlog growth large startup idle peers syscalls parts hops fairness
RESULTS := benchmarks/results.json
BENCH_growth := $(if $(FULL),--full)
BENCH_peers := $(if $(FULL),--systemd)

bench: $(VENV)/.installed-dev ## run all benchmarks for docs/performance.md (half an hour; FULL=1: an hour)
	@rm -f $(RESULTS)
	@place=$$(mktemp -d) && trap 'rm -rf "$$place"' EXIT && \
	  $(foreach name,$(BENCHMARKS),$(BIN)/python benchmarks/$(name).py --dir "$$place" --keep --results $(RESULTS) $(BENCH_$(name)) &&) \
	  $(BIN)/python benchmarks/report.py --results $(RESULTS)

BASE ?= HEAD
bench-compare: $(VENV)/.installed-dev ## compare the speed of this checkout with BASE (a commit; default: HEAD)
	@old=$$(mktemp -d) && trap 'git worktree remove --force "$$old"' EXIT && git worktree add --quiet --detach "$$old" $(BASE) && \
	  $(BIN)/python benchmarks/compare.py "$$old" . $(COMPARE_ARGS)

build: $(VENV)/.installed-dev ## build the wheel and the source archive in dist/
	@rm -rf dist
	$(BIN)/python -m build --no-isolation

# --- Install as a system service: systemd/README.md ---------------------------------------------------------
PREFIX ?= /opt/benchd
UNITDIR ?= /usr/local/lib/systemd/system
USERUNITDIR ?= /usr/local/lib/systemd/user
SYSUSERSDIR ?= /usr/local/lib/sysusers.d
TMPFILESDIR ?= /usr/local/lib/tmpfiles.d
CONFDIR ?= /etc/benchd
# The service's user needs access to the folder of this Python.
SYSTEM_PYTHON ?= $(firstword $(wildcard /usr/bin/python3) $(PYTHON))
PIP_INSTALL_ARGS ?=

install: $(VENV)/.made ## install a system service, below $(DESTDIR)
	@PIP="$(BIN)/pip" PYTHON="$(SYSTEM_PYTHON)" PIP_INSTALL_ARGS="$(PIP_INSTALL_ARGS)" DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" UNITDIR="$(UNITDIR)" \
	  USERUNITDIR="$(USERUNITDIR)" SYSUSERSDIR="$(SYSUSERSDIR)" TMPFILESDIR="$(TMPFILESDIR)" CONFDIR="$(CONFDIR)" sh systemd/install.sh

install-user: $(VENV)/.made ## install a user service, without root
	@PIP="$(BIN)/pip" PYTHON="$(PYTHON)" PIP_INSTALL_ARGS="$(PIP_INSTALL_ARGS)" DESTDIR="$(DESTDIR)" PREFIX="$$HOME/.local/share/benchd" FOR_USER=1 \
	  USERUNITDIR="$$HOME/.config/systemd/user" CONFDIR="$$HOME/.config/benchd" sh systemd/install.sh

uninstall-user: ## remove the user service; audits, configs and settings stay
	@DESTDIR="$(DESTDIR)" PREFIX="$$HOME/.local/share/benchd" FOR_USER=1 \
	  USERUNITDIR="$$HOME/.config/systemd/user" CONFDIR="$$HOME/.config/benchd" sh systemd/uninstall.sh

uninstall: ## remove the system service; audits, configs and settings stay
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" UNITDIR="$(UNITDIR)" USERUNITDIR="$(USERUNITDIR)" \
	  SYSUSERSDIR="$(SYSUSERSDIR)" TMPFILESDIR="$(TMPFILESDIR)" CONFDIR="$(CONFDIR)" sh systemd/uninstall.sh

clean: ## remove what the other targets made
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-interop $(SAMPLE) dist build site .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
