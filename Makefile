# make demo: the whole thing on a laptop CPU. make test: what CI runs.
PYTHON ?= python3
BIN := .venv/bin
DEMO := reports/demo

.PHONY: demo test lint packages bench soak chaos clean

# Installs again whenever the requirements change.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Promote, rollback and "not yet" are all good endings for a demo (README, Exit codes).
demo: .venv/installed
	rm -rf $(DEMO)
	@$(BIN)/canary run policies/*.yaml --out $(DEMO); code=$$?; \
		case $$code in 0|3|4|5) ;; *) exit $$code ;; esac

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The report is checked in a real browser, the ingress behind a real proxy: Debian's.
packages:
	@command -v chromium > /dev/null && test -x /usr/sbin/nginx || { apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium nginx-light > /dev/null; }

test: lint packages
	$(BIN)/pytest

bench: .venv/installed packages
	@for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

# Half an hour, killed four times on the way.
soak: .venv/installed
	rm -rf reports/soak
	$(BIN)/python tests/soak/soak.py reports/soak

# A run on three nodes, of which twenty processes and nodes are killed.
chaos: .venv/installed
	rm -rf reports/chaos
	$(BIN)/python tests/soak/chaos.py reports/chaos

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
