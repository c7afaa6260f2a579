# `make help` tells what there is to do. Three variables may be given:
#   PYTHON   the interpreter to build for, 3.11 or newer   make build PYTHON=python3.12 VENV=.venv-3.12
#   ARGS     more words for pytest                         make test ARGS="-k fib -x"
#   FRAMES   of each of the two processes that fuzz        make fuzz FRAMES=250000
#
# Three builds live side by side. The release build is in place, beside its .pyi files, and .venv sees the tree itself
# (editable). The debug and the sanitizer build are complete copies of the packages under build/KIND/lib, which the
# run puts in front of the tree (UNDER): no build ever overwrites another, and one .venv serves all three.

PYTHON ?= $(firstword $(foreach p,python3 python3.11 python3.12 python3.13,$(shell $p -c \
	'import sys; print("$p" if sys.version_info >= (3, 11) else "")' 2>/dev/null)) python3)
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
ARGS ?=
FRAMES ?= 500000
# Images that forbid it (python's own does) would have every process that a test starts compile all modules anew.
export PYTHONDONTWRITEBYTECODE :=
# Whoever builds waits for whoever is building the same. Here a C warning is an error; at a user's, with a compiler that
# we never saw, it is not.
SETUP = CFLAGS=-Werror FASTPATH_HOOKS=1 flock $1 $(PY) setup.py -q
ROOT := $(CURDIR)
# Python would put the current directory, and a script's own, in front of all: PYTHONSAFEPATH forbids that, to the
# processes that tests start as well, so the scripts are told where their neighbours are.
UNDER = FASTPATH_BUILD=$(ROOT)/build/$1/lib PYTHONSAFEPATH=1 \
	PYTHONPATH=$(ROOT)/build/$1/lib:$(ROOT):$(ROOT)/scripts
# Python itself is not built with the sanitizer, so its runtime is loaded first; the interpreter's own leaks are not
# ours. Pytest must leave file descriptor 2 alone (--capture=sys): a finding ends the process, and its report with it.
SANITIZED = LD_PRELOAD=$$(gcc -print-file-name=libasan.so) PYTHONMALLOC=malloc \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 $(call UNDER,sanitize)

# Tests share the processors: those that need nothing (KIND-units) one by one, those among real neighbours (KIND-live)
# file by file, three at a time, as they wait a lot (those that load the machine: two); in CI the first compute while
# the others wait. What looks at the tree (tests/house), and what reaches no compiled code (NO_C: by its imports, or
# since it looks at the reference), is the same in every build. The sanitizer, which costs three times the time, also
# leaves out what imports compiled code and has next to none run, and the tests of the fuzzing that `make fuzz` does on
# that very build.
FAST = -n $(shell nproc) -p no:benchmark
FILES = --dist loadfile --no-loadscope-reorder -p no:benchmark
NO_C = $$($(PY) -m tests.house.imports) -k "not [reference"
MERE_IMPORT = $(foreach part,control* metrics view* cli_* explain daemon_reach fuzz,--ignore-glob='*/test_$(part).py')
# Nor does it send 65,536 frames to see a number come round. Of several -k the last one counts: all of NO_C's is here.
BRIEF = -k "not [reference and not goes_round and not go_round"
# Live tests of control's own work, in which the data path has nothing to do that others do not have it do.
OF_CONTROL = $(foreach part,lab* fabric* rpc* etcd* bfd* netlink consume* privileges systemd record_captures snooping* \
	nve_nvgre nve_tenants nve_one_box nve_abuse reload process abuse,\
	--ignore-glob='*/system/test_$(part).py')
SOME = $(if $(ARGS),|| [ $$? = 5 ])# that ARGS leave no test in one part is no fault

.DEFAULT_GOAL := help
.PHONY: help build demo test slow slow-units slow-live pythons lint types debug debug-build debug-units debug-live \
	sanitize sanitize-build sanitize-units sanitize-live fuzz soak bench clean

help:  ## say what each target does
	@awk -F ':.*##  *' '/^[a-z]+:.*##/ { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(READY)  ## build everything: ./.venv with ./.venv/bin/fastpath, seeing this tree as it is
	@$(call SETUP,.lock) build_ext --inplace

demo: build  ## show a fabric of Linux VXLAN hosts at work while its parts are killed, a capture replayed, a race against the kernel
	@scripts/demo.sh $(VENV)

test: build  ## run the tests, except those that take longer than ten seconds each
	$(PY) -m pytest -m "not slow" $(FAST) tests/unit tests/contract $(ARGS) $(SOME)
	$(PY) -m pytest -m "not slow" -n 3 $(FILES) tests/house tests/system $(ARGS) $(SOME)

slow: slow-units slow-live  ## run the tests that take longer: packaging, load, many starts and stops

slow-units: build
	$(PY) -m pytest -m slow -n 2 $(FILES) tests/unit tests/house $(ARGS) $(SOME)

slow-live: build
	$(PY) -m pytest -m slow -n 2 $(FILES) tests/system $(ARGS) $(SOME)

pythons:  ## run the tests on the other Pythons that we declare, where they are present
	@for v in 3.12 3.13; do \
		p=$$(ls ~/.pyenv/versions/$$v.*/bin/python 2>/dev/null | tail -1); p=$${p:-python$$v}; \
		if $$p -c '' 2>/dev/null; then $(MAKE) test PYTHON=$$p VENV=.venv-$$v || exit 1; else echo "no Python $$v here"; fi; \
	done

lint: $(READY) types  ## check style, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(READY)  ## check types alone (mypy --strict)
	$(VENV)/bin/mypy

debug: debug-units debug-live  ## run the tests that reach compiled code on a build with Cython's own checks

debug-units: debug-build
	$(call UNDER,debug) $(PY) -m pytest -m "not slow" $(FAST) $(NO_C) tests/unit tests/contract $(ARGS) $(SOME)

debug-live: debug-build
	$(call UNDER,debug) $(PY) -m pytest -m "not slow" -n 3 $(FILES) $(OF_CONTROL) tests/system $(ARGS) $(SOME)

sanitize: sanitize-units sanitize-live  ## run the tests that reach C under AddressSanitizer and UndefinedBehaviorSanitizer

sanitize-units: sanitize-build
	$(SANITIZED) $(PY) -m pytest -m "not slow" --capture=sys $(FAST) $(NO_C) $(MERE_IMPORT) $(BRIEF) tests/unit tests/contract $(ARGS) $(SOME)

sanitize-live: sanitize-build
	$(SANITIZED) $(PY) -m pytest -m "not slow" --capture=sys -n 3 $(FILES) $(wildcard tests/system/test_*port*.py) $(ARGS) $(SOME)

fuzz: sanitize-build  ## put a million mutated frames through the sanitizer build, in two processes
	@for seed in 1 2; do \
		$(SANITIZED) $(PY) -m tests.fuzz.run --frames $(FRAMES) --seed $$seed --out build/fuzz/$$seed & runs="$$runs $$!"; \
	done; for run in $$runs; do wait $$run || failed=1; done; [ -z "$$failed" ]

soak: build sanitize-build  ## fuzz with twenty million frames; start and stop ten thousand times
	SOAK_CYCLES=10000 $(PY) -m pytest -m slow tests/system/test_leaks.py
	$(SANITIZED) $(PY) -m tests.fuzz.run --frames 20000000

bench: build  ## measure, against plain memcpy and the reference; the figures are kept in build/bench
	@mkdir -p build/bench
	$(PY) -m pytest bench -p no:cacheprovider --benchmark-only --benchmark-sort=fullname \
		--benchmark-columns=min,median,max,iqr,rounds \
		--benchmark-json=build/bench/$$(date +%Y%m%dT%H%M%S)-$$(git rev-parse --short HEAD 2>/dev/null || echo none).json $(ARGS)

clean:  ## remove what was built, .venv included
	rm -rf build dist $(VENV) .venv-* .lock *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find fastpath tests -name '*.so' -delete
	find fastpath ctrl tests bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# Only a change of pyproject.toml can ask for other packages. The install itself compiles nothing: a module that does
# not compile at the moment must not cost anyone the environment.
$(READY): pyproject.toml
	@scripts/setup-system.sh $(PYTHON)
	@echo "installing into $(VENV) ..."
	@[ -x $(PY) ] || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -qq $$($(PY) -c 'import tomllib; \
		print(*("%r" % r for r in tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]))' | tr -d "'")
	@FASTPATH_PURE=1 flock .lock $(PY) -m pip install -qq --no-build-isolation -e '.[dev]'
	@touch $@

# Modules that left the tree must not live on in a copy of it. All others stay: others may be running them.
debug-build sanitize-build: %-build: $(READY)
	@mkdir -p build/$*/lib && cd build/$*/lib && find . -name '*.py' ! -exec test -e $(ROOT)/{} \; -delete
	@FASTPATH_$(if $(filter debug,$*),DEBUG,SANITIZE)=1 $(call SETUP,build/$*/lock) build --build-base build/$* --build-lib build/$*/lib
