"""
A testing kit for services that use the store; `pytest_plugins = ["eventstore.testing"]` loads it.

It gives a store on a database of its own for each test, given/when/then for projectors and
decisions, and faults on demand. Needs the extra `testing`; see docs/testing.md.

PYTEST_DONT_REWRITE: there is no assert here, and pytest would warn of a conftest.py that imports a
name from here before it reads `pytest_plugins`.
"""

from __future__ import annotations

from eventstore.testing.network import Faults
from eventstore.testing.plugin import (
    event_store,
    event_store_database,
    event_store_migrate,
    event_store_options,
    event_store_server,
    event_store_url,
    faults,
    given,
)
from eventstore.testing.proxy import Proxy, run_proxy, url_through
from eventstore.testing.scenario import Scenario
from eventstore.testing.server import LocalServer, Server, run_server, server_at

__all__ = [
    "Faults",
    "LocalServer",
    "Proxy",
    "Scenario",
    "Server",
    "event_store",
    "event_store_database",
    "event_store_migrate",
    "event_store_options",
    "event_store_server",
    "event_store_url",
    "faults",
    "given",
    "run_proxy",
    "run_server",
    "server_at",
    "url_through",
]
