"""The kit's fixtures, on the server of this project's tests, with the read models of a service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from eventstore.testing import (
    Server,
    event_store,
    event_store_database,
    event_store_url,
    faults,
    given,
)
from tests.support.own_read_model import DDL, Box, Boxed, Done, project_box, project_done, protect
from tests.support.server import Server as TestServer

__all__ = ["event_store", "event_store_database", "event_store_url", "faults", "given"]


@pytest.fixture(scope="session")
def event_store_server(server: TestServer) -> Iterator[Server]:
    template = server.direct(server.create_database())
    with psycopg.connect(template, autocommit=True) as owner:
        owner.execute(DDL)
        protect(owner, Box, Done)
    yield Server(server.direct_url("postgres"), str(conninfo_to_dict(template)["dbname"]))
    server.drop_database(template)


@pytest.fixture(scope="session")
def event_store_options() -> dict[str, Any]:
    return {"projectors": [project_box, project_done], "events": [Boxed]}
