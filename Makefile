# make run    sets up .venv and opens the browser application (FIXED=head1.nii.gz MOVING=head2.nii.gz to open your own images)
# make test   sets up .venv and runs the tests
# make bench  sets up .venv with other people's registration and compares on two real pairs (in ../shared/data)
# make fuzz   damages thousands of files of all kinds and looks whether any is read wrong or without words (FUZZ=count)
# make kills  ends the program at random moments and looks at what is left behind (KILLS=count)
# make lint   sets up .venv and runs the style and type checks
# Needs Python 3.10 or newer; the system packages that are missing are named (`make missing-packages` lists them).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
SHELL := /bin/bash
FIXED ?=
MOVING ?=
VIEW_OPTIONS ?=
FUZZ ?= 5000
KILLS ?= 100

# What this system lacks of the libraries that Qt and VTK load. $(1): "run" or "test" (which also needs a browser and CMake).
define find_missing
	missing=""; \
	need() { ldconfig=$$(command -v ldconfig || echo /sbin/ldconfig); \
	         "$$ldconfig" -p 2>/dev/null | grep -q "$$1" || missing="$$missing $$2"; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || missing="$$missing python3"; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ "$$(uname -s)" = Linux ]; then \
	    need libGL.so.1 libgl1; need libEGL.so.1 libegl1; need libEGL_mesa.so.0 libegl-mesa0; \
	    need libglib-2.0.so.0 libglib2.0-0; need libX11.so.6 libx11-6; \
	    if [ $(1) = test ]; then \
	        need libdbus-1.so.3 libdbus-1-3; need libxkbcommon.so.0 libxkbcommon0; \
	        need libfontconfig.so.1 libfontconfig1; need libgssapi_krb5.so.2 libgssapi-krb5-2; \
	    fi; \
	fi; \
	if [ $(1) = test ]; then \
	    command -v cmake >/dev/null || missing="$$missing cmake"; \
	    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	        || missing="$$missing chromium"; \
	fi
endef

define refuse_if_missing
	@$(call find_missing,$(1)); \
	if [ -n "$$missing" ]; then \
	    echo "Missing on this system:$$missing"; \
	    echo "On Debian and Ubuntu: sudo apt-get install$$missing"; \
	    exit 1; \
	fi
endef

.PHONY: run test fuzz kills bench lint clean missing-packages
.DELETE_ON_ERROR:

run: $(VENV)/.ready-run
	$(BIN)/hyperreg view $(if $(FIXED),"$(FIXED)") $(if $(MOVING),"$(MOVING)") $(VIEW_OPTIONS)

# Files side by side, one process a core; a file's tests stay together, because they share fixtures.
test: $(VENV)/.ready-test
	$(BIN)/python -m pytest -n auto --dist loadfile --durations 15 --durations-min 5

fuzz: $(VENV)/.ready-test
	$(BIN)/python -m Testing.Fuzz $(FUZZ)

kills: $(VENV)/.ready-test
	$(BIN)/python -m Testing.Kills $(KILLS)

bench: $(VENV)/.ready-bench
	$(BIN)/python -m benchmarks registration --short

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

missing-packages:
	@$(call find_missing,test); echo $$missing

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The build backend is installed with the same pins first, so that nothing unpinned is fetched while building.
$(VENV)/.ready-run: pyproject.toml constraints.txt | check-run $(BIN)/python
	$(PIP) install --constraint constraints.txt hatchling
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable ".[view]"
	@touch $@

$(VENV)/.ready-test: pyproject.toml constraints.txt | check-test $(BIN)/python
	$(PIP) install --constraint constraints.txt hatchling
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable ".[view,test,dev]"
	@touch $@ $(VENV)/.ready-run

# What the benchmark compares with; torch and numpy stay at their pins.
$(VENV)/.ready-bench: $(VENV)/.ready-run
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable ".[view,bench]"
	@touch $@

.PHONY: check-run check-test
check-run:
	$(call refuse_if_missing,run)
check-test:
	$(call refuse_if_missing,test)
