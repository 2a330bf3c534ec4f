# The two commands are `make demo` and `make test`; each installs and builds what it needs first.
# Everything that takes decisions is in tools/bootstrap.sh and in pytest; here are only the names.

SHELL := /bin/bash
PY := .venv/bin/python
PYTEST := REQUIRE_ALL=1 $(PY) -m pytest
FOR_GUESTS := mmdebstrap kmod e2fsprogs

.PHONY: demo test vm fuzz check lint build bench package clean format
.DEFAULT_GOAL := check

# Debian packages, virtual environment, Python packages, generated protobuf code, native code.
build:
	@tools/bootstrap.sh

demo: build
	@$(PY) -m demo

# All but the guests, of which there is one: from its kernel a program goes to this machine's.
test:
	@tools/bootstrap.sh $(FOR_GUESTS)
	@$(PYTEST) tests --ignore=tests/bench --ignore=tests/package --ignore=tests/vm -n 2 --dist loadfile --no-loadscope-reorder
	@$(PYTEST) tests/vm/test_this_machine.py -k '[6.1]'

# Two guests with other kernels, emulated (tests/vm); what they are made of is kept in ~/.cache/migrate-vm.
vm:
	@tools/bootstrap.sh $(FOR_GUESTS)
	@$(PYTEST) -s tests/vm

# Hostile images, frames and messages, coverage-guided: a minute for each reader. What is found is in build/fuzz.
fuzz: build
	@$(PY) -m pip install -q -c constraints.txt atheris
	@for target in images stream control pages plan; do $(PY) -m tests.fuzz $$target || exit; done

# ruff, mypy --strict, clang-format, the layer rule and the unit tests.
check: build
	@$(PYTEST) tests/unit

lint: build
	@$(PYTEST) tests/unit/test_lint.py tests/unit/test_layers.py

format: build
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
	@clang-format -i core/native/*.[ch]

# The Debian package, the archive and the wheel, in build/dist; each is installed where nothing else is, and used.
package:
	@tools/bootstrap.sh systemd
	@PACKAGES=build/dist $(PYTEST) tests/package

bench: build
	@$(PY) -m tests.bench

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf core/images/pb/*_pb2* migrate/pb core/native/build core/native/stem core/native/init core/native/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
