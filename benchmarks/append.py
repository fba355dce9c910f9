"""
What an append costs beyond the work of the database: one message, and the turn of an agent.

The floor is pgbench, which sends the same SQL, so the ratio is the cost of Python and of the
store's code. The measured side calls the public API, as an application does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from uuid import UUID

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from benchmarks.measure import Figure, Samples, Side, Size, run_in_turn, time_calls
from benchmarks.pgbench import MARK, Pgbench, marked_ids
from benchmarks.server import Server
from benchmarks.turns import EVENTS_PER_AGENT_TURN, agent_turn, text
from eventstore import EventStore, Settings
from eventstore.database.plan import Statement
from eventstore.database.scope import EnterScope, user_scope
from eventstore.events.registry import EventRegistry
from eventstore.integrations.opentelemetry import Telemetry
from eventstore.log.append_request import prepare_append
from eventstore.log.envelope import NewEvent
from eventstore.store.context import UserContext
from eventstore.store.units.transaction import TransactionCommands
from eventstore.store.units.unit_of_work import UnitOfWork
from projections import BUILT_IN, Projections
from projections.apply.live import live_statements

__all__ = ["figures"]

_APPENDS = Size(full=100, quick=50)
"""Appends in one round: a tenth of a second per side, so that both sides meet the same noise."""

_ROUNDS = Size(full=40, quick=10)
"""At 40 rounds, 200 appends are slower than p95, and the ratio is a median of 40."""

_WITHIN_SECONDS = Size(full=25, quick=2)
"""No round starts later: on a busy machine the benchmark has fewer rounds and takes no longer."""

_FLOOR_USER = "floor"

type _Command = Callable[[TransactionCommands, UUID, int], object]


def figures(server: Server, *, quick: bool) -> Iterator[Figure]:
    """Measure both appends in a database that only they use."""
    url = server.create_database("append")
    with EventStore.connect(url) as store:
        alice = store.user("alice")
        chat = alice.conversations.start(title="Groceries").id
        numbers = count()

        def post() -> None:
            alice.messages.post(chat, sender="user", content=text(next(numbers)))

        def turn() -> None:
            with alice.transaction() as record:
                agent_turn(record, chat, next(numbers))

        floor_chat = store.user(_FLOOR_USER).conversations.start(title="Groceries").id
        for name, append, command, events in (
            ("append one message", post, _post, 1),
            ("append an agent turn", turn, agent_turn, EVENTS_PER_AGENT_TURN),
        ):
            floor = Pgbench(server, "append", _statements(server, floor_chat, command))
            yield _figure(server, name, floor, append, events, quick=quick)
        with EventStore.connect(url, observer=_telemetry()) as observed:
            watched = observed.user("alice")

            def watched_post() -> None:
                watched.messages.post(chat, sender="user", content=text(next(numbers)))

            appends = _APPENDS.choose(quick=quick)
            without, watching = _rounds(
                lambda: time_calls(post, appends),
                lambda: time_calls(watched_post, appends),
                quick=quick,
            )
            yield Figure("append with telemetry", "without", 1, "events", without, watching)


def _telemetry() -> Telemetry:
    """Return an observer whose spans and metrics are recorded, and then sent nowhere."""
    return Telemetry(tracer_provider=TracerProvider(), meter_provider=MeterProvider())


def _rounds(floor: Side, append: Side, *, quick: bool) -> list[list[Samples]]:
    return run_in_turn(
        floor,
        append,
        rounds=_ROUNDS.choose(quick=quick),
        within_seconds=_WITHIN_SECONDS.choose(quick=quick),
    )


def _figure(
    server: Server,
    name: str,
    floor: Pgbench,
    append: Callable[[], None],
    events: int,
    *,
    quick: bool,
) -> Figure:
    appends = _APPENDS.choose(quick=quick)
    before = _position(server)
    floor_rounds, store_rounds = _rounds(
        lambda: floor.run(appends), lambda: time_calls(append, appends), quick=quick
    )
    # A floor that appends other events than the store would be no floor.
    written = _position(server) - before
    if written != floor.calls * events:
        raise RuntimeError(f"the floor wrote {written} events in {floor.calls} appends")
    return Figure(name, "pgbench, same SQL", events, "events", floor_rounds, store_rounds)


def _post(record: TransactionCommands, conversation: UUID, number: int) -> None:
    record.messages.post(conversation, sender="user", content=text(number))


def _statements(server: Server, conversation: UUID, command: _Command) -> list[Statement]:
    """Return the statements of an append by `command`: scope, append and row changes."""
    settings = Settings()
    projections = Projections(*BUILT_IN)
    work = UnitOfWork(UserContext(_FLOOR_USER, projections, EventRegistry()))
    work.new_id = marked_ids()
    command(TransactionCommands(work), conversation, 1)
    events = [_marked(step, work) for step in work.steps if isinstance(step, NewEvent)]
    request = prepare_append(_FLOOR_USER, events, work.default_key)
    scope = Statement(*EnterScope(settings).sql(user_scope(_FLOOR_USER), 5, 5))
    row_changes = [projections.project(envelope) for envelope in request.envelopes]
    changes = live_statements(projections, request.envelopes, row_changes)
    return [scope, _typed(server, request.statement()), *map(_typed_rows, changes)]


def _marked(event: NewEvent, work: UnitOfWork) -> NewEvent:
    """Return an event with a marked id: that of a tool's answer is derived from the request."""
    if str(event.event_id).endswith(MARK):
        return event
    return replace(event, event_id=work.new_id())


def _typed(server: Server, call: Statement) -> Statement:
    """Return the call of a function with a cast for each parameter; pgbench has text only."""
    function = call.sql.removeprefix("select ").partition("(")[0]
    with server.admin("append") as connection:
        row = connection.execute(
            "select proargtypes::regtype[]::text[] from pg_proc where oid = %s::regproc",
            (function,),
        ).fetchone()
    types: list[str] = row[0] if row else []
    casts = (f"${number}::{one}" for number, one in enumerate(types, 1))
    return call._replace(sql=f"select {function}({', '.join(casts)})")


def _typed_rows(change: Statement) -> Statement:
    """Return a row change with the type of the array that has several rows, if it has one."""
    sql = change.sql.replace("json_to_recordset($2)", "json_to_recordset($2::json)")
    return change._replace(sql=sql)


def _position(server: Server) -> int:
    with server.admin("append") as connection:
        row = connection.execute(
            "select position from eventstore.user_log where user_id = %s", (_FLOOR_USER,)
        ).fetchone()
    return row[0] if row else 0
