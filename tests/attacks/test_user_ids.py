"""A user id is opaque text: ids that only look alike are different users."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import text
from sqlmodel import select

from eventstore import EventStore, InvalidInput, NotStorable
from projections import Task
from tests.support.server import Server

LOOK_ALIKES = (
    "alice",
    "Alice",
    "ALICE",
    "alice ",
    " alice",
    "alice\t",
    "alice\n",
    "'alice'",
    '"alice"',
    "alice'",
    "alice\\",
    "alice\\'",
    "al%ce",
    "al_ce",
    "alice;",
    "alice--",
    "alice/*",
    "$1",
    "{0}",
    "%s",
    ":user",
    "null",
    "0",
    "true",
    "\u0430lice",
    "alice\u200b",
    "al\u00adice",
    "\u202ealice",
    "\uff41lice",
    "jos\u00e9",
    "jose\u0301",
    "stra\u00dfe",
    "strasse",
    "STRASSE",
    "\u0130",
    "\u0131",
    "i\u0307",
    "\ufb01",
    "fi",
    "\u212a",
    "k",
    "K",
    "\U0001f600",
    "\U0001f468\u200d\U0001f469",
    "alice\x01",
    "' or '1'='1",
    "'; drop table eventstore.event; --",
    "alice', 'eventstore_operator",
    "a" * 255,
    "a" * 254 + "b",
    "\U0001f600" * 255,
    "postgres",
    "eventstore_app",
    "public",
    "*",
    "\\x00",
)
REFUSED = {
    "empty": ("", InvalidInput),
    "a control character alone": ("\x01", InvalidInput),
    "a filler alone": ("\u3164", InvalidInput),
    "blank": ("   ", InvalidInput),
    "blank beyond ASCII": ("\u2003\u00a0", InvalidInput),
    "256 characters": ("a" * 256, InvalidInput),
    "256 characters of four bytes": ("\U0001f600" * 256, InvalidInput),
    "NUL": ("ali\0ce", NotStorable),
    "a lone surrogate": ("ali\ud800ce", NotStorable),
    "bytes": (b"alice", InvalidInput),
    "a number": (7, InvalidInput),
    "nothing": (None, InvalidInput),
}


def test_ids_that_look_alike_are_different_users(shared_store: EventStore) -> None:
    assert len(set(LOOK_ALIKES)) == len(LOOK_ALIKES)
    for number, name in enumerate(LOOK_ALIKES):
        task = shared_store.user(name).tasks.create(f"task {number}")
        shared_store.user(name).conversations.start(key="chat", title=f"chat {number}")
        assert task.title == f"task {number}"

    for number, name in enumerate(LOOK_ALIKES):
        user = shared_store.user(name)
        with user.session() as session:
            rows = session.exec(select(Task)).all()
            scope = "select current_setting('eventstore.user_id')"
            assert session.connection().execute(text(scope)).scalar() == name
        assert [(row.user_id, row.title) for row in rows] == [(name, f"task {number}")]
        assert [one.title for one in user.tasks.list()] == [f"task {number}"]
        assert [one.title for one in user.conversations.list()] == [f"chat {number}"]
        assert {one.user_id for one in user.events()} == {name}
    assert {*LOOK_ALIKES} <= {*shared_store.users()}
    assert shared_store.verify().ok
    assert shared_store.rebuild().changed == 0


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_user_id_is_refused_and_named_by_every_method(
    shared_store: EventStore, case: str
) -> None:
    name, kind = REFUSED[case]
    before = shared_store.users()
    calls: list[Callable[[], object]] = [
        lambda: shared_store.user(name),  # type: ignore[arg-type]  # invalid on purpose
        lambda: shared_store.erase(name, ordered_by="me"),  # type: ignore[arg-type]  # invalid on purpose
        lambda: shared_store.heads([name]),  # type: ignore[list-item]  # invalid on purpose
        lambda: shared_store.export(name, str),  # type: ignore[arg-type]  # invalid on purpose
    ]
    if name is not None:  # None means all users there
        calls.append(lambda: shared_store.verify(name))  # type: ignore[arg-type]  # invalid on purpose
        calls.append(lambda: shared_store.rebuild(name))  # type: ignore[arg-type]  # invalid on purpose

    for call in calls:
        with pytest.raises(kind) as error:
            call()
        assert error.value.path == "user_id"
    assert shared_store.users() == before


def test_the_scope_carries_any_user_id_exactly(server: Server) -> None:
    setting = "select set_config('eventstore.user_id', %s, true), eventstore.current_user_id()"
    with psycopg.connect(server.direct_url("template")) as connection:
        for name in LOOK_ALIKES:
            connection.execute(setting, (name,))
            row = connection.execute("select eventstore.current_user_id()").fetchone()
            assert row == (name,)
