"""
One round trip: the statements of a batch out in one pipeline, their rows back.

This works on libpq itself, because psycopg's cursors and pipelines cost four times the CPU for the
same statements. It is a generator that waits for the socket, as psycopg's own are, so sync and
async connections run the same code.

PostgreSQL runs the statements as one implicit transaction, which commits at the pipeline's Sync. If
one of them fails, none of them happened, and those after it are answered as aborted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import psycopg
from psycopg.abc import PQGen, Transformer
from psycopg.errors import error_from_result
from psycopg.generators import fetch_many, send
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

from eventstore.database.driver.parameters import Parameters, encode
from eventstore.database.errors import classify
from eventstore.database.plan import Rows, Statement
from eventstore.errors import ConnectionLost

__all__ = ["HasPipeline", "run_pipeline"]


class HasPipeline(Protocol):
    """
    A connection on which pipelines can be run.

    :ivar statement_names: the names of the statements that are prepared on it, by their SQL; None
        behind a transaction pooler, where the next transaction may run on another server process.
    :ivar transformer: reads the values of results.
    """

    statement_names: dict[str, bytes] | None
    transformer: Transformer

    @property
    def pgconn(self) -> PGconn:
        """The connection of libpq."""


def run_pipeline(
    connection: HasPipeline, statements: Sequence[Statement], unread: int = 0
) -> PQGen[list[Rows]]:
    """
    Send statements as one pipeline and return the rows of each.

    A statement whose text comes again and again is prepared at its first use on a connection.

    :param unread: so many of the first statements return nothing that anybody wants.
    :return: a generator to be run by `connection.wait`; its result is the rows of each statement.
    :raises NotStorable: a parameter has no SQL form; nothing was sent.
    :raises psycopg.Error: the first error of the server, or the loss of the connection.
    """
    pgconn = connection.pgconn
    # Once libpq has a part of the pipeline, a value that is refused would cost the connection.
    parameters = encode([statement.params for statement in statements])
    pgconn.enter_pipeline_mode()
    prepares = _queue(pgconn, connection.statement_names, statements, parameters)
    # `send` reads too, or server and client, each with a full buffer, would wait for each other.
    yield from send(pgconn)
    requests = iter(prepares)
    results: list[PGresult] = []
    error: psycopg.Error | None = None
    while True:
        try:
            answers = yield from fetch_many(pgconn)
            if not answers:  # something on the way swallowed a part of what was sent or answered
                pgconn.finish()
                raise psycopg.OperationalError("the answers do not belong to what was asked")
        except psycopg.Error:
            # The server may have said why it ends the connection. What has no SQLSTATE is libpq's.
            if error is not None and error.sqlstate is not None:
                raise error from None
            raise
        result = answers[0]
        if result.status == ExecStatus.PIPELINE_SYNC:
            break
        # An error of the commit is one answer more than there are requests.
        prepared = next(requests, None)
        if result.status == ExecStatus.FATAL_ERROR:
            # Raised after the Sync was answered: only then can the connection be used again.
            error = error or error_from_result(result)
        elif prepared is None:
            results.append(result)
        elif result.status == ExecStatus.COMMAND_OK:
            # A prepared statement survives the rollback of its transaction.
            _note_name(connection, prepared)
    pgconn.exit_pipeline_mode()
    if error is not None:
        _cut_if_useless(pgconn, error)
        raise error
    transformer = connection.transformer
    return [_rows(transformer, one) if one.nfields else [] for one in results[unread:]]


type _Prepares = list[tuple[str, bytes] | None]
"""By request: the statement that it prepares and its name, or None if it runs one."""


def _queue(
    pgconn: PGconn,
    names: dict[str, bytes] | None,
    statements: Sequence[Statement],
    parameters: Sequence[Parameters],
) -> _Prepares:
    """Give a pipeline and its Sync to libpq, which begins to send them."""
    new_names: dict[str, bytes] = {}
    prepares: _Prepares = []
    for (sql, _, prepared), (values, formats) in zip(statements, parameters, strict=True):
        if names is None or not prepared:
            pgconn.send_query_params(sql.encode(), values, None, formats, Format.BINARY)
        else:
            name = names.get(sql) or new_names.get(sql)
            if name is None:
                # The count is a free number: up to the first error all are prepared, in order.
                name = new_names[sql] = b"eventstore_%d" % (len(names) + len(new_names))
                pgconn.send_prepare(name, sql.encode())
                prepares.append((sql, name))
            pgconn.send_query_prepared(name, values, formats, Format.BINARY)
        prepares.append(None)
    pgconn.pipeline_sync()
    return prepares


def _note_name(connection: HasPipeline, prepared: tuple[str, bytes]) -> None:
    if connection.statement_names is not None:
        sql, name = prepared
        connection.statement_names[sql] = name


def _cut_if_useless(pgconn: PGconn, error: psycopg.Error) -> None:
    """
    End a connection after an error that only a new one helps against, though it is open.

    Its prepared statements no longer fit, or its server has become a standby; the pool would find
    it healthy.
    """
    if isinstance(classify(error), ConnectionLost):
        pgconn.finish()


def _rows(transformer: Transformer, result: PGresult) -> Rows:
    transformer.set_pgresult(result)
    try:
        return transformer.load_rows(0, result.ntuples, tuple)
    except UnicodeDecodeError as undecodable:  # a database in another encoding allows it
        raise psycopg.DataError(f"a value is not UTF-8: {undecodable.reason}") from undecodable
