"""
The attacks of one user on another: what an attack is, how it runs, and when it succeeds.

`alice` has rows in every table. `bob` is the attacker, with a login that has the application role
and nothing else. An attack succeeds if it returns a row of another user, or if it changes such a
row or the protection of a table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy import Table

import projections  # noqa: F401 - puts the read models into the metadata
from eventstore import EventStore
from eventstore.log.tables import metadata
from tests.support.own_read_model import (
    DDL,
    Box,
    Boxed,
    Done,
    ServiceModel,
    box_event,
    project_box,
    project_done,
    protect,
)
from tests.support.server import Server

__all__ = [
    "AS_BOB",
    "ATTACKER",
    "LOG_TABLES",
    "TABLES",
    "Attack",
    "Outcome",
    "attacker_url",
    "fill_tables",
    "key_without_user",
    "make_login",
    "others_rows",
    "placeholders",
    "save_bobs_rows",
    "try_with_defence",
    "try_without_defence",
]

ATTACKER = "attacker"
TABLES: dict[str, Table] = {
    table.fullname: table
    for table in (*metadata.sorted_tables, *ServiceModel.metadata.sorted_tables)
}
LOG_TABLES = [f"eventstore.{name}" for name in ("user_log", "stream", "event")]
AS_BOB = (
    "select set_config('role', 'eventstore_app', true),"
    " set_config('eventstore.user_id', 'bob', true)"
)
"""Enters bob's scope."""
_PROTECTION = """
select 'class', relname, relowner::text, relacl::text,
       relrowsecurity::text || relforcerowsecurity || relnatts, relnamespace::text
from pg_class where relnamespace::regnamespace::text in ('eventstore', 'service')
union all select 'policy', polname, polrelid::text, polroles::text,
                 pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
from pg_policy
union all select 'trigger', tgname, tgrelid::text, tgenabled::text, '', ''
from pg_trigger where not tgisinternal
union all select 'rule', rulename, ev_class::text, ev_enabled::text, '', ''
from pg_rewrite where ev_class >= 16384
union all select 'constraint', conname, conrelid::text, contype::text, '', ''
from pg_constraint where conrelid >= 16384
union all select 'function', proname, proowner::text, prosecdef::text, proconfig::text,
                 pg_get_functiondef(oid)
from pg_proc where pronamespace::regnamespace::text in ('eventstore', 'service')
"""
_EXISTING = "select name from unnest(%s::text[]) as name where to_regclass(name) is not null"
_ROWS = "select '{0}', to_json(t)::text from {0} as t where user_id <> 'bob'"


@dataclass(frozen=True)
class Attack:
    """
    SQL that the application role runs in bob's scope, and the statements that remove its defence.

    :ivar weaken: statements of a superuser that remove the defence, so that the attack succeeds.
    :ivar reveals: the SQLSTATE that would reveal what another user's row holds.
    :ivar setup: statements of a superuser that run whether the defence is removed or not.
    :ivar scope: the statement that sets the role and the user of the transaction.
    """

    name: str
    weaken: Sequence[str]
    sql: str
    reveals: str = ""
    setup: Sequence[str] = ()
    scope: str = AS_BOB


@dataclass(frozen=True)
class Outcome:
    """How many rows of other users an attack returned, and how many it changed."""

    returned: int
    changed: int
    error: str = ""


def make_login(server: Server, name: str, *roles: str) -> None:
    """Create a login that has `roles` and inherits nothing, unless the server has it already."""
    login = sql.Identifier(name)
    server.execute(
        sql.SQL(
            "do $$ begin create role {} login noinherit;"
            " exception when duplicate_object then null; end $$"
        ).format(login)
    )
    for role in roles:
        server.execute(sql.SQL("grant {} to {}").format(sql.Identifier(role), login))


def attacker_url(server: Server, url: str) -> str:
    """Return `url` with the attacker's login, which has the application role and nothing else."""
    make_login(server, ATTACKER, "eventstore_app")
    return url.replace("postgres@", f"{ATTACKER}@")


def fill_tables(server: Server, url: str) -> None:
    """Fill every table, and the tables of a service, with rows of alice and of bob."""
    with psycopg.connect(server.direct(url), autocommit=True) as owner:
        owner.execute(DDL)
        protect(owner, Box, Done)
        with EventStore.connect(
            url, projectors=[project_box, project_done], events=[Boxed]
        ) as store:
            for name in ("alice", "bob"):
                user = store.user(name)
                task = user.tasks.create(f"{name}'s task", description=f"{name}'s secret")
                user.tasks.complete(task.id)
                chat = user.conversations.start(key="chat", title=f"{name}'s chat")
                user.messages.post(chat.id, sender="user", content=f"{name}'s message")
                call = user.tool_calls.request(chat.id, name="look", arguments=f"{name}'s")
                user.tool_calls.succeed(call, output=f"{name}'s output")
                with user.turn(chat.id, key=f"{name}'s request") as turn:
                    turn.end(model="gpt", usage={"input_tokens": 7})
                user.append([box_event(uuid4(), "made", value=f"{name}'s box")])
            store.subscribe("search", lambda _: None).catch_up()
        owner.execute("update eventstore.feed_checkpoint set feed = md5(user_id), error = user_id")
        owner.execute(
            "insert into eventstore.rebuild_progress (user_id, started_at, fingerprint)"
            " values ('alice', now(), 'x'), ('bob', now(), 'x')"
        )
        owner.execute("analyze")


def others_rows(admin: psycopg.Connection) -> set[tuple[Any, ...]]:
    """Return every row that is not bob's, as text, and the protection of every table."""
    names = [name for (name,) in admin.execute(_EXISTING, ([*TABLES],)).fetchall()]
    rows = admin.execute(" union all ".join(map(_ROWS.format, names))).fetchall()
    return {*rows, *admin.execute(_PROTECTION).fetchall()}


def placeholders(admin: psycopg.Connection, name: str) -> dict[str, str]:
    """
    Return the replacement of each `$WORD` in the SQL of an attack on a table.

    $HERS is a row of alice's. $FORGED is a new row in the name of $OTHER, who is alice, or carol
    where a user has one row. $LINE is $FORGED as a line for COPY. $OWN is $FORGED in bob's name.
    $SAME_KEY is a row of bob's with a key of hers. $POINTING is a row of bob's that refers to her
    conversation $CHAT, and $NOWHERE one that refers to an absent conversation.
    """
    found: dict[str, dict[str, Any]] = {}
    chats = {}
    for user in ("alice", "bob"):
        query = f"select to_json(t) from {name} as t where user_id = '{user}' limit 1"
        chat = f"select id::text from eventstore.conversation where user_id = '{user}'"
        ((found[user],),) = admin.execute(query).fetchall()
        ((chats[user],),) = admin.execute(chat).fetchall()
    hers, keys = found["alice"], [one.name for one in TABLES[name].primary_key]
    fresh = {
        "position": 1_000_000,
        "version": 1_000_000,
        "idempotency_key": None,
        **{key: str(uuid4()) for key in keys if key in {"id", "box", "stream_id", "feed"}},
    }
    fresh = {column: value for column, value in fresh.items() if column in hers}
    own = {"user_id": "bob"}
    if "conversation_id" in hers:
        own["conversation_id"] = chats["bob"]
    forged = hers | fresh | ({"user_id": "carol"} if keys == ["user_id"] else {})
    rows = {
        "$HERS": hers,
        "$FORGED": forged,
        "$OWN": hers | fresh | own,
        "$SAME_KEY": hers | fresh | {key: hers[key] for key in key_without_user(name)} | own,
    }
    if "conversation_id" in hers:
        rows["$POINTING"] = rows["$OWN"] | {"conversation_id": chats["alice"], "id": str(uuid4())}
        rows["$NOWHERE"] = rows["$POINTING"] | {"conversation_id": str(uuid4())}
    words = {word: _record(name, row) for word, row in rows.items()}
    with admin.cursor().copy(f"copy ({words['$FORGED']}) to stdout") as copy:
        line = b"".join(copy).decode()
    return words | {
        "$LINE": line,
        "$CHAT": chats["alice"],
        "$OTHER": "carol" if keys == ["user_id"] else "alice",
    }


def save_bobs_rows(admin: psycopg.Connection) -> None:
    """Copy bob's rows, so that `try_with_defence` can restore the rows that an attack deleted."""
    admin.execute("create schema saved")
    for name in TABLES:
        copy = f"create table saved.{name.partition('.')[2]} as select * from {name}"
        admin.execute(f"{copy} where user_id = 'bob'")
    admin.commit()


def key_without_user(name: str) -> list[str]:
    """Return the columns that would identify a row if the user were not part of the key."""
    if name == "eventstore.event":
        return ["stream_id", "version"]
    return [one.name for one in TABLES[name].primary_key][1:2]


def try_without_defence(
    admin: psycopg.Connection, attack: Attack, words: dict[str, str]
) -> Outcome:
    """Run an attack without its defence, in a transaction that is rolled back."""
    return _try_as_superuser(admin, attack, words, [*attack.setup, *attack.weaken])


def try_with_defence(
    attacker: psycopg.Connection, admin: psycopg.Connection, attack: Attack, words: dict[str, str]
) -> Outcome:
    """Run an attack as the attacker's login and commit; with a setup, roll everything back."""
    if attack.setup:
        return _try_as_superuser(admin, attack, words, attack.setup)
    before = others_rows(admin)
    admin.commit()
    returned, error = 0, ""
    try:
        with attacker.transaction():
            attacker.execute(attack.scope)
            returned = _run(attacker, attack, words)
    except psycopg.Error as caught:
        returned, error = int(caught.sqlstate == attack.reveals), str(caught)
    after = others_rows(admin)
    for name in TABLES:  # the next attack needs the rows that bob may have deleted
        saved = f"saved.{name.partition('.')[2]}"
        admin.execute(f"insert into {name} select * from {saved} on conflict do nothing")
    admin.commit()
    return Outcome(returned, len(before ^ after), error)


def _try_as_superuser(
    admin: psycopg.Connection, attack: Attack, words: dict[str, str], setup: Sequence[str]
) -> Outcome:
    try:
        for statement in setup:
            admin.execute(statement)
        before = others_rows(admin)
        admin.execute(f"set local session authorization {ATTACKER}")
        admin.execute(attack.scope)
        returned = _run(admin, attack, words)
        admin.execute("set local session authorization default")
        return Outcome(returned, len(before ^ others_rows(admin)))
    except psycopg.Error as caught:
        return Outcome(int(caught.sqlstate == attack.reveals), 0, str(caught))
    finally:
        admin.rollback()


def _run(connection: psycopg.Connection, attack: Attack, words: dict[str, str]) -> int:
    """Run an attack's SQL and return how many of its rows hold another user's data."""
    text = attack.sql
    for word, replacement in words.items():
        text = text.replace(word, replacement)
    cursor = connection.cursor()
    if text.startswith("copy") and "to stdout" in text:
        with cursor.copy(text) as copy:
            return sum(_is_of_another_user(row) for row in copy.rows())
    if text.startswith("copy"):
        with cursor.copy(text) as copy:
            copy.write(words["$LINE"])
        return 0
    cursor.execute(text)
    returned = 0
    while True:
        if cursor.description:
            returned += sum(_is_of_another_user(row) for row in cursor.fetchall())
        if not cursor.nextset():
            return returned


def _is_of_another_user(row: Sequence[Any]) -> bool:
    return "alice" in str(row) or "carol" in str(row)


def _record(name: str, row: dict[str, Any]) -> str:
    text = json.dumps(row)
    if row["user_id"] == "bob":  # the row must not contain data of hers
        text = text.replace("alice", "bob")
    text = sql.Literal(text).as_string()
    return f"select (json_populate_record(null::{name}, {text})).*"
