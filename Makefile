# make demo            train on a made-up cohort and look at the result (under three minutes)
# make demo COHORT=…   the same on a cohort of yours; MINUTES=20 trains longer, DEMO=folder writes elsewhere
# make test            all tests; PYTEST="-k volume -x" passes arguments to pytest
# make lint            what ruff has to say
# make cmake-lists     write the files on disk into the CMakeLists.txt files
# make file-map        write the map of files into ARCHITECTURE.md
# make clean           remove what these commands made; make distclean also removes .venv
#
# Each does its own set-up in .venv with Python 3.11 or 3.12, pip and make. A torch that is already in .venv, or in the
# Python that makes it, is used as it is; else TORCH is what pip is asked for:
#   make test TORCH="torch --index-url https://download.pytorch.org/whl/cpu"

VENV := .venv
PYTHON ?= $(shell for python in python3 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$python && break; done)
TORCH ?= torch==2.13.0
DEMO ?= demo
COHORT ?=
MINUTES ?=
PYTEST ?=

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: demo test lint format cmake-lists file-map clean distclean

demo: $(READY)
	$(VENV)/bin/python -m SemiSupSegLib demo --out "$(DEMO)" $(if $(COHORT),--cohort "$(COHORT)") $(if $(MINUTES),--minutes $(MINUTES))

test: $(READY)
	$(VENV)/bin/python -m pytest $(PYTEST)

lint: $(READY)
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

format: $(READY)
	$(VENV)/bin/python -m ruff check --fix .
	$(VENV)/bin/python -m ruff format .

cmake-lists: $(READY)
	$(VENV)/bin/python Testing/cmake_lists.py

file-map: $(READY)
	$(VENV)/bin/python Testing/file_map.py

clean:
	rm -rf demo build .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; name it with make PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $$($(PYTHON) -c 'import torch' 2>/dev/null && echo --system-site-packages) $(VENV)

# The torch that is there is written into the constraints: nothing that follows may replace it.
$(READY): pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -c 'import torch' 2>/dev/null || $(PIP) install $(TORCH)
	$(VENV)/bin/python -c 'import tomllib, importlib.metadata as metadata; \
		project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		wanted = sum(project["optional-dependencies"].values(), project["dependencies"]); \
		print(*wanted, sep="\n", file=open("$(VENV)/requirements.txt", "w")); \
		print("torch==" + metadata.version("torch"), file=open("$(VENV)/constraints.txt", "w"))'
	$(PIP) install -r $(VENV)/requirements.txt -c $(VENV)/constraints.txt
	@touch $(READY)
