# `make` alone is `make test`: style, types, tests. Needs git, make and Python 3.11 or newer with venv, nothing else.

TEMPLATE ?= tkt-rag-agent
PORT ?= 7860
PYTHON ?= python3
BIN := .venv/bin
# As they were typed: a question may hold a $ or a quote, and a remote's password too.
override ASK := $(value ASK)
export ASK
override REMOTE := $(value REMOTE)
export REMOTE
# Bytecode halves every start, and some machines forbid it.
unexport PYTHONDONTWRITEBYTECODE
export GIT_TERMINAL_PROMPT := 0

# The tests that start no app, no browser and no server, and take seconds.
CHECKED := contract docs_complete notebooks python_is_python runbook tracing_wire troubleshooting twins

.PHONY: all help demo render check test test-long lint fix corpus bench budgets bench-quality bench-service bench-vllm bench-crew \
  notebooks legal-qa publish canary supply audit docs docs-check
all: test

help:
	@echo "make demo                      render tkt-rag-agent, load its sample documents, serve its page"
	@echo "                               TEMPLATE=tkt-vllm-gradio another template, PORT=7861 another port"
	@echo "make demo ASK='your question'  answer on the terminal instead, and end"
	@echo "make test-long                 the other tests: images, bad days, vLLM itself; installs gigabytes first"
	@echo "make test                      style, types and the quicker tests; installs what they need first"
	@echo "make check                     between edits: style, types, the contract and unit tests; within a minute"
	@echo "make lint | make fix           check style and types | mend what can be mended"
	@echo "make render DEST=../my-app     a repository of your own: TEMPLATE=, APP=my-app its name, DATA=answers.yml all answers"
	@echo "make publish REMOTE=address    say what of TEMPLATE=name, which must be given, would be its own repository, or why not"
	@echo "                               PUSH=1 publish it: history, version tag, the platform's catalogue entry"
	@echo "make canary                    would the newest releases break us? names the package; ONLY=tkt-rag-agent one part"
	@echo "make supply | make audit       what the templates are made of, with licences | known vulnerabilities of it"
	@echo "make docs                      make tables, diagrams, pictures and the site of docs/ again"
	@echo "make docs-check                build the site, and run the blocks of commands of the pages"
	@echo "make corpus                    build the sample documents from corpus/"
	@echo "make notebooks                 run all notebooks, as on a laptop; PLATFORM=1 with doubles; WRITE=1 keeps outputs;"
	@echo "                               ONLY=agent-dev those with that in their names"
	@echo "make legal-qa                  one agent's whole life: measured, tuned, gated, deployed, rolled back; stops and goes on"
	@echo "                               FRESH=1 from the beginning, SAVE=1 keep the figures, QUICK=1 less of everything,"
	@echo "                               MODEL=name on a GPU"
	@echo "make bench                     what each template costs, against its limits; half an hour"
	@echo "                               ONLY=apps a part, BEFORE=commit as it was, IMAGES=1 COMMANDS=1 HOUR=1 or MINUTES=10 those too"
	@echo "make budgets                   the part of it that a minute can measure"
	@echo "make bench-quality DATA=dir    retrieval and answers, on public data; about 45 minutes"
	@echo "make bench-service DATA=dir    load, bad days and attacks; about 15 minutes"
	@echo "make bench-crew                many crews at once, lost workers, overhead; about 15 minutes"
	@echo "make bench-vllm                what the model server adds to its engine; about 20 minutes"
	@echo "make PYTHON=python3.12 ...     with another Python, the first time"

demo: .venv/tools
	@$(BIN)/python tools/demo.py $(TEMPLATE) --port $(PORT) $(if $(value ASK),--ask="$$ASK")

render: .venv/tools
	@test -n "$(DEST)" || { echo "Say where: make render TEMPLATE=$(TEMPLATE) DEST=my-app"; exit 2; }
	$(BIN)/copier copy --defaults $(if $(DATA),--data-file $(DATA)) $(if $(APP),--data project_name=$(APP)) \
	  $(TEMPLATE) $(DEST)

check: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not long" $(CHECKED:%=tests/test_%.py)
	$(BIN)/python tools/check_apps.py

test: lint
	$(BIN)/python tools/system_packages.py
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 40 -m "not long"

test-long: .venv/dev
	$(BIN)/python tools/system_packages.py
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 40 -m long

publish: .venv/dev
	@$(if $(filter file,$(origin TEMPLATE)),echo "Say which template: make publish TEMPLATE=name REMOTE=address"; exit 2)
	@test -n "$$REMOTE" || { echo "Say where: make publish TEMPLATE=$(TEMPLATE) REMOTE=address"; exit 2; }
	@$(if $(filter-out 1,$(value PUSH)),echo "Say PUSH=1 to publish or leave PUSH out to look: it takes no other value."; exit 2)
	@$(BIN)/python tools/publish.py $(TEMPLATE) "$$REMOTE" $(if $(filter 1,$(value PUSH)),--push)

canary: .venv/dev
	$(BIN)/python tools/canary/run.py $(ONLY)

supply: .venv/dev
	$(BIN)/python tools/supply.py

audit: .venv/dev
	$(BIN)/python tools/supply.py --audit

notebooks: .venv/dev
	$(BIN)/python tools/notebooks.py $(ONLY) $(if $(PLATFORM),--platform) $(if $(WRITE),--write)

# In the environment of fine-tuning, which is made first.
legal-qa: .venv/dev
	$(BIN)/python tools/fine_tuning.py examples/legal-qa/life.py $(if $(FRESH),--fresh) $(if $(SAVE),--save)

docs: .venv/dev
	$(BIN)/python tools/system_packages.py
	$(BIN)/python tools/docs/tables.py
	$(BIN)/python tools/docs/diagrams.py
	$(BIN)/python tools/docs/pictures.py
	$(BIN)/python tools/docs/site.py

docs-check: .venv/dev
	$(BIN)/python tools/docs/site.py
	$(BIN)/python tools/docs/run.py

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_types.py

fix: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

corpus: .venv/dev
	$(BIN)/python corpus/build.py

bench: .venv/dev
	$(BIN)/python benchmarks/budgets.py $(or $(ONLY),$(if $(BEFORE),apps,apps retrieval overhead updates canary)) \
	  $(if $(IMAGES),images) $(if $(COMMANDS),check test) $(if $(HOUR)$(MINUTES),leak) \
	  $(if $(MINUTES),--minutes $(MINUTES)) $(if $(BEFORE),--before $(BEFORE))

budgets: .venv/dev
	$(BIN)/pytest tests/test_budgets.py

bench-quality: .venv/dev
	$(BIN)/python -c 'from tests.live import bin_folder; bin_folder()'
	.venv-rag-agent/bin/python benchmarks/retrieval.py "$(DATA)"
	.venv-rag-agent/bin/python benchmarks/answers.py "$(DATA)"
	$(BIN)/python benchmarks/draw.py

bench-vllm: .venv/dev
	$(BIN)/python benchmarks/vllm.py
	$(BIN)/python benchmarks/draw.py

bench-crew: .venv/dev
	$(BIN)/python benchmarks/crew.py
	$(BIN)/python benchmarks/draw.py

bench-service: .venv/dev
	$(BIN)/python benchmarks/rag_service.py $(DATA)
	$(BIN)/python benchmarks/draw.py

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv .venv || \
	  { echo "Python's venv is missing: on Debian, apt-get install python3-venv"; exit 2; }
	@touch $@

.venv/tools: requirements-tools.txt | .venv/python
	@echo "Installing what renders templates ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep ^uv= requirements-tools.txt)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements-tools.txt
	@touch $@

.venv/dev: requirements-dev.txt .venv/tools
	@echo "Installing what the checks need ..."
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements-dev.txt
	@touch $@
