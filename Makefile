# make test: everything that must hold.   make demo: train, export and run on real pictures, from nothing.

PYTHON ?= python3
VENV ?= .venv
# Processes that run tests side by side, one compute thread each; a test process takes 2 to 4 GB. One more than two cores
# have work for: tests wait for cameras, servers and processes a quarter of their time.
WORKERS ?= 3
BIN = $(VENV)/bin
# Containers set it, and every process of the tests would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE
SOURCES := $(shell find train export runtime calibration fleet -type f -not -name '*.pyc')
EXPORTING := $(shell find train export -type f -not -name '*.pyc') runtime/bundle.py runtime/tokenizer.py \
	runtime/preprocess.py $(wildcard runtime/text/*.py) tests/support/make_bundle.py
BUNDLE = $(abspath $(VENV))/test-bundle
PACKAGES = -p attri.runtime -p attri.train -p attri.calibration -p attri.export -p attri.fleet -p benchmarks -p tools
# Tests need no annotations, but what they call and compare is checked. In them a None that should be none fails by
# itself, lambdas call what returns nothing, methods are replaced, and stand-ins inherit from Any.
LENIENT = --explicit-package-bases --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls \
	--allow-untyped-decorators --allow-any-generics --allow-subclassing-any --implicit-reexport --no-strict-optional \
	--no-strict-equality --no-warn-return-any --disable-error-code func-returns-value \
	--disable-error-code var-annotated --disable-error-code method-assign

.PHONY: test lint types unit quick demo docs dist hooks clean

test: lint types unit

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy $(PACKAGES)
	MYPYPATH=tests$(MYPYPATH:%=:%) $(BIN)/mypy $(LENIENT) --cache-dir .mypy_cache/tests tests

unit: $(VENV)/installed
	@echo "tests: some minutes, more on few cores"
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 10

# For the edit loop: no server, no browser, no training, no export, no process; but for the first time, see below.
quick: $(VENV)/installed $(BUNDLE)/manifest.json
	ATTRI_TEST_BUNDLE=$(BUNDLE) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 10 --quick

# The tests' bundle, which make quick keeps for as long as the code that writes it stays the same.
$(BUNDLE)/manifest.json: $(VENV)/dependencies $(EXPORTING) | $(VENV)/installed
	@echo "exporting the bundle that tests read: a minute, only the first time"
	$(BIN)/python tests/support/make_bundle.py $(BUNDLE)

# The commands in the middle are the product; tools/demo.py only lays out images and draws the sheet.
demo: $(VENV)/installed
	@echo "demo: trains, exports and classifies in ./demo: some minutes"
	rm -rf demo
	$(BIN)/python tools/demo.py prepare demo
	cd demo && ../$(BIN)/attri-train
	cd demo && ../$(BIN)/attri-export --fp16
	cd demo && ../$(BIN)/attri-run photos --labels labels.txt --json > photos.jsonl
	cd demo && ../$(BIN)/attri-run clip.mp4 --labels labels.txt --json > clip.jsonl
	$(BIN)/python tools/demo.py show demo

# The manual, in site/: from docs/, from docstrings and from the commands. Fails on dead links and unknown names.
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "docs: open site/index.html"

# What a release is: wheel and source archive, checked, and the wheel tried in an environment of its own.
dist: $(VENV)/installed
	rm -rf dist build *.egg-info
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tools/check_dist.py dist
	rm -rf build *.egg-info dist/try
	$(PYTHON) -m venv dist/try
	dist/try/bin/pip install --quiet --constraint constraints.txt "$$(ls dist/*.whl)[onnx]"
	dist/try/bin/attri-doctor --version
	dist/try/bin/attri-doctor
	rm -rf dist/try

# The checks of .pre-commit-config.yaml before each commit.
hooks: $(VENV)/installed
	$(BIN)/pre-commit install

# A regular install, not an editable one: what is tested is what a user gets, and mypy sees it.
$(VENV)/installed: $(VENV)/dependencies $(SOURCES)
	@echo "installing attri into $(VENV)"
	@rm -rf build *.egg-info
	$(BIN)/pip install --quiet --no-deps --force-reinstall .
	@rm -rf build *.egg-info
	@touch $@

$(VENV)/dependencies: pyproject.toml constraints.txt
	@echo "making $(VENV) with PyTorch and all that attri and its tests need: 6.5 GB, some minutes, only the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --progress-bar on --constraint constraints.txt '.[all,dev,docs]'
	@touch $@

clean:
	rm -rf $(VENV) demo site dist build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
