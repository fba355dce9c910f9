"""
What an append costs beside the database's own work: one message, and an agent's turn.

The floor is pgbench sending the same SQL, so the ratio is the price of Python and of our code.
Ours goes through the facade, as an application does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any
from uuid import UUID, uuid5

from benchmarks.measure import Figure, Side, Size, in_turn, timed
from benchmarks.pgbench import Pgbench, marked_ids
from benchmarks.server import Server
from benchmarks.turns import EVENTS_PER_AGENT_TURN, agent_turn, text
from eventstore import EventStore, Settings
from eventstore.database.plan import Statement
from eventstore.database.scope import SET_SCOPE, scope_values, user_scope
from eventstore.events.registry import EventRegistry
from eventstore.log.append_request import prepare_append
from eventstore.log.envelope import NewEvent
from eventstore.log.ids import NewId
from eventstore.store.context import UserContext
from eventstore.store.transaction import TransactionCommands
from eventstore.store.unit_of_work import UnitOfWork
from projections import BUILT_IN, Projections
from projections.apply.live import live_statements

__all__ = ["figures"]

_APPENDS = Size(full=100, quick=50)
"""In one round: a tenth of a second a side, so that both meet the same noise."""

_ROUNDS = Size(full=40, quick=10)
"""p95 has 200 slower appends behind it; the ratio is the median of so many."""

_WITHIN_SECONDS = Size(full=25, quick=2)
"""No further round after that: a busy machine gets fewer rounds, not a longer run."""

_FLOOR_USER = "floor"

type _Command = Callable[[TransactionCommands, UUID, int], object]


def figures(server: Server, *, quick: bool) -> Iterator[Figure]:
    """Measure both appends in a database of their own."""
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
        for name, ours, command, events in (
            ("append one message", post, _post, 1),
            ("append an agent turn", turn, agent_turn, EVENTS_PER_AGENT_TURN),
        ):
            floor = Pgbench(server, "append", _statements(floor_chat, command))
            yield _figure(server, name, floor, ours, events, quick=quick)


def _figure(
    server: Server, name: str, floor: Pgbench, ours: Callable[[], None], events: int, *, quick: bool
) -> Figure:
    appends = _APPENDS.of(quick=quick)
    before = _position(server)
    sides: tuple[Side, Side] = (lambda: floor.run(appends), lambda: timed(ours, appends))
    of_floor, of_ours = in_turn(
        *sides, rounds=_ROUNDS.of(quick=quick), within_seconds=_WITHIN_SECONDS.of(quick=quick)
    )
    written = _position(server) - before
    if written != floor.calls * events:
        raise RuntimeError(f"the floor wrote {written} events in {floor.calls} appends")
    return Figure(name, "pgbench, same SQL", events, "events", of_floor, of_ours)


def _post(record: TransactionCommands, conversation: UUID, number: int) -> None:
    record.messages.post(conversation, sender="user", content=text(number))


def _statements(conversation: UUID, command: _Command) -> list[Statement]:
    """Return what an append by `command` sends: the scope, the append, the row changes."""
    settings = Settings()
    projections = Projections(*BUILT_IN)
    work = UnitOfWork(UserContext(_FLOOR_USER, projections, EventRegistry(), 0))
    work.new_id = marked_ids()
    command(TransactionCommands(work), conversation, 1)
    events = [step for step in work.steps if isinstance(step, NewEvent)]
    request = prepare_append(_FLOOR_USER, events, work.default_key)
    scope = Statement(SET_SCOPE, scope_values(user_scope(_FLOOR_USER), settings))
    changes = live_statements(projections, request.envelopes)
    return _mark_replies([scope, request.statement, *changes], events, work.new_id)


def _mark_replies(
    statements: list[Statement], events: list[NewEvent], new_id: NewId
) -> list[Statement]:
    """Give the tool's answers marked ids too: the store derives theirs from the request's id."""
    known = {str(uuid5(event.event_id, "reply")): new_id() for event in events}

    def marked(value: object) -> Any:
        if isinstance(value, UUID):
            return known.get(str(value), value)
        if isinstance(value, str):
            for derived, replacement in known.items():
                value = value.replace(derived, str(replacement))
        return value

    return [one._replace(params=[marked(value) for value in one.params]) for one in statements]


def _position(server: Server) -> int:
    with server.admin("append") as connection:
        row = connection.execute(
            "select position from eventstore.user_log where user_id = %s", (_FLOOR_USER,)
        ).fetchone()
    return row[0] if row else 0
