"""
One round trip: statements out in one pipeline, rows back.

All statements leave before the first answer is waited for. An error may show while statements are
still being sent, and the pipeline's end then only says that it was aborted; so the first error is
kept, and raised when the pipeline has ended in order.

The pipeline's end commits, so it must never be reached with only some of the statements sent: if
anything but the server stops the sending (a cancelled task, Ctrl-C, a value that has no SQL form),
the connection is cut, and the server forgets what it got.

Statements are prepared at their first use or never: psycopg's counting takes a statement for
prepared even if the pipeline was aborted before its turn, and every later use would fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor, Connection, RawCursor
from psycopg.errors import PipelineAborted
from psycopg.rows import tuple_row

from eventstore.database.errors import is_stale
from eventstore.database.plan import Rows, Statement

__all__ = ["exchange", "exchange_async"]


def exchange(connection: Connection[Any], statements: list[Statement]) -> list[Rows]:
    """Send the statements as one pipeline and return the rows of each."""
    cursors = []
    prepares = connection.prepare_threshold is not None
    first: psycopg.Error | None = None
    try:
        with connection.pipeline():
            try:
                for statement in statements:
                    cursor = RawCursor(connection, row_factory=tuple_row)
                    cursor.execute(
                        statement.sql,
                        statement.params,
                        prepare=prepares and statement.prepared,
                        binary=True,
                    )
                    cursors.append(cursor)
            except psycopg.Error as error:
                first = error
                if error.sqlstate is None and not isinstance(error, PipelineAborted):
                    connection.pgconn.finish()
            except BaseException:
                connection.pgconn.finish()
                raise
    except psycopg.Error as error:
        first = first or error
    if first is not None:
        _cut_if_stale(connection, first)
        raise first
    with _readable():
        return [cursor.fetchall() if cursor.description else [] for cursor in cursors]


async def exchange_async(
    connection: AsyncConnection[Any], statements: list[Statement]
) -> list[Rows]:
    """Send the statements as one pipeline and return the rows of each."""
    cursors = []
    prepares = connection.prepare_threshold is not None
    first: psycopg.Error | None = None
    try:
        async with connection.pipeline():
            try:
                for statement in statements:
                    cursor = AsyncRawCursor(connection, row_factory=tuple_row)
                    await cursor.execute(
                        statement.sql,
                        statement.params,
                        prepare=prepares and statement.prepared,
                        binary=True,
                    )
                    cursors.append(cursor)
            except psycopg.Error as error:
                first = error
                if error.sqlstate is None and not isinstance(error, PipelineAborted):
                    connection.pgconn.finish()
            except BaseException:
                connection.pgconn.finish()
                raise
    except psycopg.Error as error:
        first = first or error
    if first is not None:
        _cut_if_stale(connection, first)
        raise first
    with _readable():
        return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]


@contextmanager
def _readable() -> Iterator[None]:
    """Tell text that is no text as what it is: psycopg takes it for granted that it is UTF-8."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise psycopg.DataError(f"a value is not UTF-8: {error.reason}") from error


def _cut_if_stale(connection: Connection[Any] | AsyncConnection[Any], error: psycopg.Error) -> None:
    """Cut a connection whose prepared statements no longer fit the server: only a new one helps."""
    if is_stale(error):
        connection.pgconn.finish()
