"""A service's own Alembic leaves the store's tables alone, with the lines of docs/python.md."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, create_engine
from sqlmodel import Field, SQLModel

from tests.project.test_docs import PYTHON, blocks


class ServiceBase(SQLModel):
    """Has metadata of its own, because the tests' own tables are in SQLModel's."""

    metadata = MetaData()


class Plan(ServiceBase, table=True):
    """A table of the service, which is not there yet."""

    id: int = Field(primary_key=True)


def test_autogenerate_with_all_schemas_creates_the_services_table_and_drops_none_of_the_stores(
    direct_url: str,
) -> None:
    (snippet,) = (one.code for one in blocks(PYTHON) if "include_schemas" in one.code)
    configured: dict[str, Any] = {}
    engine = create_engine(direct_url.replace("postgresql://", "postgresql+psycopg://"))

    with engine.connect() as connection:
        exec(
            snippet,
            {
                "connection": connection,
                "context": SimpleNamespace(configure=configured.update),
                "SQLModel": ServiceBase,
            },
        )
        del configured["connection"]
        found = changes(connection, configured)
        without = changes(connection, configured | {"include_name": None})
    engine.dispose()

    assert found == [("add_table", "plan")]
    assert ("remove_table", "event") in without


def changes(connection: Any, options: dict[str, Any]) -> list[tuple[str, str]]:
    context = MigrationContext.configure(connection, opts=options)
    found = compare_metadata(context, ServiceBase.metadata)
    return [(one[0], one[1].name) for one in found]
