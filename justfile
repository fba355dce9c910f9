# The commands of this project. `just` lists them, and `.ci/run` calls the same ones.

# Python compiles a module once and not in each process: the tests start many. Empty is unset.
export PYTHONDONTWRITEBYTECODE := ""

default:
    @just --list

# Check the format, the lint rules, the types and the import contracts.
check:
    uv run ruff format --check .
    uv run ruff check .
    uv run mypy
    uv run lint-imports

# Run the tests; the arguments go to pytest.
test *arguments:
    uv run pytest {{arguments}}

# Run the tests on PostgreSQL 15 (from Debian), 16 or 18 (from a wheel).
test-on version *arguments:
    EVENTSTORE_TEST_POSTGRES={{version}} uv run pytest {{arguments}}

# Run the tests with the application behind PgBouncer (from Debian) in transaction mode.
test-pooled *arguments:
    EVENTSTORE_TEST_POOLER=pgbouncer uv run pytest {{arguments}}

# Run all tests on PostgreSQL 15, 16 and 18, directly and behind PgBouncer; takes half an hour.
test-everywhere *arguments:
    #!/usr/bin/env bash
    set -uo pipefail
    failed=0
    for version in 15 16 18; do
        for pooler in "" pgbouncer; do
            echo "PostgreSQL $version ${pooler:+through $pooler}"
            EVENTSTORE_TEST_POSTGRES=$version EVENTSTORE_TEST_POOLER=$pooler \
                uv run pytest -q {{arguments}} || failed=1
        done
    done
    exit $failed

# Run the property tests with so many times the examples, and new ones: `just explore 20 tests/log`.
explore factor *arguments:
    EVENTSTORE_TEST_EXAMPLES={{factor}} uv run pytest {{arguments}}

# Run the benchmarks, whose figures are ratios to a floor that is measured in the same minute.
bench *arguments:
    uv run python -m benchmarks {{arguments}}

# Compare appends with those of other stores, in one run on one server.
bench-peers *arguments:
    uv run --group peers python -m benchmarks.peers {{arguments}}

# Compare sessions of the Agents SDK: ours with the SDK's own on PostgreSQL.
bench-sessions *arguments:
    uv run --group peers python -m benchmarks.agent_sessions {{arguments}}

# Run each read, command and maintenance on a short and on a long log of one user.
large-user *arguments:
    uv run python -m benchmarks.large_user {{arguments}}

# Run the Agents SDK's own tests of sessions, from its source distribution, against ours.
sdk-tests *arguments:
    uv run --isolated --group sdk-tests python -m tests.integrations.agents.sdk {{arguments}}

# Run the MCP SDK's own tests of its server, from its source distribution, with ours in it.
mcp-sdk-tests *arguments:
    uv run --isolated --group mcp-sdk-tests python -m tests.integrations.mcp.sdk {{arguments}}

# Have users chat with the example service at once, and kill it meanwhile; it must answer each once.
load *arguments:
    uv run python -m benchmarks.service_load {{arguments}}

# Deliver 100,000 events while workers and server are killed; prints what came, twice or not at all.
feeds *arguments:
    uv run python -m benchmarks.feeds {{arguments}}
# Let each kind of fault happen while clients write and read; nothing may be lost or doubled.
faults *arguments:
    uv run python -m tests.faults {{arguments}}

# Let a thousand users (tasks or --threads) chat at once on a pool of 20, over a crash of the server.
crowd *arguments:
    uv run python -m tests.faults.crowd {{arguments}}

# Run the examples and every code block of the documentation.
docs:
    uv run pytest tests/project/test_docs.py

# Migrate a database to try things on: EVENTSTORE_DATABASE_URL, or one in your data folder.
db:
    uv run eventstore migrate
    uv run eventstore status

# Format the code and repair the lint errors that ruff can repair.
fix:
    uv run ruff format .
    uv run ruff check --fix .

# Build the wheel and the source distribution.
build:
    uv build
