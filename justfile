# Every command of the house. `just` lists them; `.ci/run` calls the same ones.

default:
    @just --list

# Format, lint, types, import contract.
check:
    uv run ruff format --check .
    uv run ruff check .
    uv run mypy
    uv run lint-imports

# The tests; arguments go to pytest.
test *arguments:
    uv run pytest {{arguments}}

# The tests on another PostgreSQL: 15 (Debian's), 16 or 18 (from a wheel).
test-on version *arguments:
    EVENTSTORE_TEST_POSTGRES={{version}} uv run pytest {{arguments}}

# The tests with the application on PgBouncer (Debian's, in transaction mode).
test-pooled *arguments:
    EVENTSTORE_TEST_POOLER=pgbouncer uv run pytest {{arguments}}

# Figures as ratios to a floor taken in the same minute.
bench *arguments:
    uv run python -m benchmarks {{arguments}}

# The examples and every block of the documentation, run.
docs:
    uv run pytest tests/project/test_docs.py

# A database of your own to try things on; EVENTSTORE_DATABASE_URL chooses another.
db:
    uv run eventstore migrate
    uv run eventstore status

# Rewrite formatting and what ruff can mend by itself.
fix:
    uv run ruff format .
    uv run ruff check --fix .

# The wheel and the source distribution.
build:
    uv build
