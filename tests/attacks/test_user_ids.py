"""A user id is opaque text: whatever looks like another id is another user."""

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
    "\x01",
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


def test_look_alikes_are_users_of_their_own(shared: EventStore) -> None:
    assert len(set(LOOK_ALIKES)) == len(LOOK_ALIKES)
    for number, name in enumerate(LOOK_ALIKES):
        task = shared.user(name).tasks.create(f"task {number}")
        shared.user(name).conversations.start(key="chat", title=f"chat {number}")
        assert task.title == f"task {number}"

    for number, name in enumerate(LOOK_ALIKES):
        user = shared.user(name)
        with user.session() as session:
            rows = session.exec(select(Task)).all()
            scope = "select current_setting('eventstore.user_id')"
            assert session.connection().execute(text(scope)).scalar() == name
        assert [(row.user_id, row.title) for row in rows] == [(name, f"task {number}")]
        assert [one.title for one in user.tasks.list()] == [f"task {number}"]
        assert [one.title for one in user.conversations.list()] == [f"chat {number}"]
        assert {one.user_id for one in user.events()} == {name}
    assert {*LOOK_ALIKES} <= {*shared.users()}
    assert shared.verify().ok
    assert shared.rebuild().changed == 0


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_no_user_id_is_refused_by_name_everywhere(shared: EventStore, why: str) -> None:
    name, kind = REFUSED[why]
    before = shared.users()
    calls: list[Callable[[], object]] = [
        lambda: shared.user(name),  # type: ignore[arg-type]  # on purpose
        lambda: shared.erase(name, ordered_by="me"),  # type: ignore[arg-type]  # on purpose
        lambda: shared.heads([name]),  # type: ignore[list-item]  # on purpose
        lambda: shared.export(name, str),  # type: ignore[arg-type]  # on purpose
    ]
    if name is not None:  # which means everybody there
        calls.append(lambda: shared.verify(name))  # type: ignore[arg-type]  # on purpose
        calls.append(lambda: shared.rebuild(name))  # type: ignore[arg-type]  # on purpose

    for call in calls:
        with pytest.raises(kind) as error:
            call()
        assert error.value.path == "user_id"
    assert shared.users() == before


def test_the_scope_carries_any_user_id_exactly(server: Server) -> None:
    setting = "select set_config('eventstore.user_id', %s, true), eventstore.current_user_id()"
    with psycopg.connect(server.direct_url("template")) as connection:
        for name in LOOK_ALIKES:
            connection.execute(setting, (name,))
            row = connection.execute("select eventstore.current_user_id()").fetchone()
            assert row == (name,)
