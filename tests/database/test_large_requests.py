"""
A request larger than what a socket takes at once arrives whole, and so does its answer.

What the socket left behind has to follow while the answer comes in: without the Sync at its end
the server would not answer, and neither side would ever speak again.
"""

from __future__ import annotations

import asyncio

from eventstore.database.connections import LimitedAsyncConnection, LimitedConnection
from eventstore.database.pipeline import exchange, exchange_async
from eventstore.database.plan import Statement

BYTES = 20_000_000
PATIENCE_SECONDS = 20.0


def echoes() -> list[Statement]:
    return [Statement("select $1::text", ["x" * BYTES]), Statement("select 1")] * 3


def lengths(rows: list[list[tuple[object, ...]]]) -> list[int]:
    return [len(str(value)) for ((value,),) in rows]


def test_a_large_request_and_its_large_answer(database_url: str) -> None:
    with LimitedConnection.connect(database_url, autocommit=True) as connection:
        connection.answer_timeout_seconds = PATIENCE_SECONDS

        assert lengths(exchange(connection, echoes())) == [BYTES, 1] * 3


def test_a_large_request_and_its_large_answer_async(database_url: str) -> None:
    async def run() -> list[int]:
        connection = await LimitedAsyncConnection.connect(database_url, autocommit=True)
        async with connection:
            connection.answer_timeout_seconds = PATIENCE_SECONDS
            return lengths(await exchange_async(connection, echoes()))

    assert asyncio.run(run()) == [BYTES, 1] * 3
