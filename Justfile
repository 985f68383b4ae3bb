# Every recipe is what the continuous integration runs.

default:
    @just --list

# Install with everything that tests need.
setup:
    python -m pip install -e '.[dev]'

# Mathematics, store and command line.
test:
    python -m pytest -n 2 --dist worksteal -m "not slow"

# Faults, hostile inputs, downloads, servers and browsers too.
test-all:
    python -m pytest -n 2 --dist worksteal

lint:
    ruff check .
    ruff format --check .
    pyright
    lint-imports

# Make the generated pages anew, and build the site: docs/_build/index.html.
docs:
    python docs/make_commands.py
    PYTHONPATH=. python docs/make_targets.py
    sphinx-build -W --keep-going -q -b html docs docs/_build

ci:
    bash .ci/run

# Make the table, the figure and the output of the first page anew: BENCH_HOME needs the study overview.
readme:
    python docs/make_readme.py

# Make the Gaussian tables of docs/findings.md anew: BENCH_HOME needs the runs of its studies.
findings +tasks:
    PYTHONPATH=. python docs/make_gaussian_findings.py {{tasks}}

# Make the tables of a study (targets, defaults) on its page anew: BENCH_HOME needs its runs.
tables study:
    PYTHONPATH=. python docs/make_tables.py {{study}}
