"""Parameters arrive as they are, or are refused before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from psycopg.pq import TransactionStatus

from eventstore import NotStorable
from eventstore.database.connections import StoreConnection
from eventstore.database.driver.pipeline import run_pipeline
from eventstore.database.plan import Statement

ID = UUID("0192d3f4-0000-7000-8000-00000000abcd")
NOON = datetime(2026, 1, 2, 12, 0, 0, 1, tzinfo=UTC)
VALUES: list[tuple[str, Any]] = [
    ("text", None),
    ("text", ""),
    ("text", "it's $1 \\ 🥛 é\n"),
    ("boolean", True),
    ("boolean", False),
    ("integer", -(2**31)),
    ("bigint", 2**63 - 1),
    ("double precision", 0.1),
    ("double precision", float("inf")),
    ("uuid", ID),
    ("bytea", b""),
    ("bytea", bytes(range(256))),
    ("date", date(2026, 1, 2)),
    ("timestamptz", NOON),
    ("text[]", []),
    ("text[]", ["a", "", 'b,{}"\\', None, "NULL", "🥛"]),
    ("text[]", [None, None]),
    ("bigint[]", [1, None, -(2**63)]),
    ("uuid[]", [ID, None, UUID(int=0)]),
    ("bytea[]", [b"\0\xff", b"", None]),
]
UNSTORABLE: dict[str, Any] = {
    "a NUL": "a\0b",
    "a lone surrogate": "a\ud800b",
    "a NUL in a list": ["a", "a\0b"],
    "a lone surrogate in a list": ["a\udfffb"],
    "an object": object(),
    "a number of a kind that no statement has": Decimal(1),
    "a dict": {},
    "a list of what has no SQL form": [object()],
    "a list of numbers with a fraction": [1.5],
    "a list of a number that is too large": [2**63],
}


@pytest.fixture
def connection(direct_url: str) -> Iterator[StoreConnection]:
    with StoreConnection.connect(direct_url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(("sql_type", "value"), VALUES)
def test_a_value_arrives_as_it_is(connection: StoreConnection, sql_type: str, value: Any) -> None:
    statement = Statement(f"select $1::{sql_type}", (value,))

    for _ in range(2):  # prepared, and run again
        assert connection.wait(run_pipeline(connection, [statement])) == [[(value,)]]


def test_a_time_is_the_same_moment_whatever_the_zones_of_client_and_session(
    connection: StoreConnection,
) -> None:
    connection.execute("set timezone = 'Asia/Kathmandu'")
    there = NOON.astimezone(timezone(timedelta(hours=-9, minutes=-30)))

    ((moment,),) = connection.wait(
        run_pipeline(connection, [Statement("select $1::timestamptz", (there,))])
    )[0]

    assert (moment, moment.utcoffset()) == (NOON, timedelta(0))


@pytest.mark.parametrize("case", UNSTORABLE)
def test_a_value_without_an_sql_form_is_refused_before_anything_is_sent(
    connection: StoreConnection, case: str
) -> None:
    begin = Statement("begin", prepared=False)

    with pytest.raises(NotStorable, match="parameter"):
        connection.wait(
            run_pipeline(connection, [begin, Statement("select $1::text", (UNSTORABLE[case],))])
        )

    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert not connection.pgconn.pipeline_status
    assert connection.wait(run_pipeline(connection, [Statement("select 1")])) == [[(1,)]]
