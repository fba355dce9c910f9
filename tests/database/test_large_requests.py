"""
A request that is larger than the socket's buffer arrives completely, and so does its answer.

The client must go on sending while it reads. The server would not answer without the Sync at the
end of the request, and both sides would wait for ever. The connections are configured as those of a
pool: behind a pooler the server process may have served another test, with its prepared statements.
"""

from __future__ import annotations

import asyncio

from eventstore import Settings
from eventstore.database.connections import StoreAsyncConnection, StoreConnection
from eventstore.database.driver import async_driver, sync_driver
from eventstore.database.driver.pipeline import run_pipeline
from eventstore.database.plan import Statement

BYTES = 20_000_000
ANSWER_TIMEOUT_SECONDS = 20.0


def echo_statements() -> list[Statement]:
    return [Statement("select $1::text", ["x" * BYTES]), Statement("select 1")] * 3


def lengths(rows: list[list[tuple[object, ...]]]) -> list[int]:
    return [len(str(value)) for ((value,),) in rows]


def test_a_large_request_and_its_large_answer_arrive_completely(database_url: str) -> None:
    with StoreConnection.connect(database_url, autocommit=True) as connection:
        sync_driver._configure(Settings(), connection)
        connection.silence_seconds = ANSWER_TIMEOUT_SECONDS

        answer = connection.wait(run_pipeline(connection, echo_statements()))

    assert lengths(answer) == [BYTES, 1] * 3


def test_a_large_request_and_its_large_answer_arrive_completely_async(database_url: str) -> None:
    async def run() -> list[int]:
        connection = await StoreAsyncConnection.connect(database_url, autocommit=True)
        async with connection:
            await async_driver._configure(Settings(), connection)
            connection.silence_seconds = ANSWER_TIMEOUT_SECONDS
            return lengths(await connection.wait(run_pipeline(connection, echo_statements())))

    assert asyncio.run(run()) == [BYTES, 1] * 3
