"""
The attack matrix: what one user tries on another user's rows in every table.

Each attack runs twice: without its defence, where it must succeed, and with it, where it must
return and change no row of another user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from tests.attacks.catalogue import ATTACKS, READ_MODELS
from tests.attacks.support import (
    AS_BOB,
    TABLES,
    Attack,
    attacker_url,
    fill_tables,
    others_rows,
    placeholders,
    save_bobs_rows,
    try_with_defence,
    try_without_defence,
)
from tests.support.server import Server


@dataclass
class AttackedDatabase:
    """A database with two users, with the connections of a superuser and of the attacker."""

    admin: psycopg.Connection
    attacker: psycopg.Connection
    words: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def attacked(server: Server) -> Iterator[AttackedDatabase]:
    url = server.create_database()
    fill_tables(server, url)
    with (
        psycopg.connect(server.direct(url)) as admin,
        psycopg.connect(
            attacker_url(server, url), autocommit=True, prepare_threshold=None
        ) as attacker,
    ):
        save_bobs_rows(admin)
        yield AttackedDatabase(
            admin, attacker, {name: placeholders(admin, name) for name in TABLES}
        )
    server.drop_database(url)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_succeeds_without_its_defence(attacked: AttackedDatabase, name: str) -> None:
    table, attack = ATTACKS[name]

    outcome = try_without_defence(attacked.admin, attack, attacked.words[table])

    assert outcome.returned + outcome.changed > 0, (
        f"the attack fails even without its defence: {outcome}"
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_returns_and_changes_no_row_of_another_user(
    attacked: AttackedDatabase, name: str
) -> None:
    table, attack = ATTACKS[name]

    outcome = try_with_defence(attacked.attacker, attacked.admin, attack, attacked.words[table])

    assert (outcome.returned, outcome.changed) == (0, 0), outcome.error


def test_every_kind_of_attack_is_tried_on_every_table() -> None:
    tried = {name: [one for one, _ in ATTACKS.values()].count(name) for name in TABLES}

    assert len(TABLES) == 12
    assert min(tried.values()) >= 50
    assert len(ATTACKS) >= 530


FOREIGN_KEY = """
alter table service.box add column conversation_id uuid;
alter table service.box add constraint of_chat foreign key (user_id, conversation_id)
    references eventstore.conversation (user_id, id) deferrable;
"""
FOREIGN_KEYS = """
select conname, conrelid::regclass::text, confrelid::regclass::text,
       array(select attname::text from unnest(conkey) with ordinality as k (number, ordinal)
             join pg_attribute on attrelid = conrelid and attnum = number order by ordinal),
       array(select attname::text from unnest(confkey) with ordinality as k (number, ordinal)
             join pg_attribute on attrelid = confrelid and attnum = number order by ordinal)
from pg_constraint
where contype = 'f' and connamespace in ('eventstore'::regnamespace, 'service'::regnamespace)
"""


@pytest.fixture
def foreign_key(attacked: AttackedDatabase) -> Iterator[None]:
    """A foreign key of a service's table to one of the store, as a service may declare it."""
    attacked.admin.execute(FOREIGN_KEY)
    attacked.admin.commit()
    yield
    attacked.admin.execute("alter table service.box drop column conversation_id")
    attacked.admin.commit()


@pytest.mark.usefixtures("foreign_key")
def test_no_foreign_key_lets_a_row_of_bob_refer_to_a_row_of_alice(
    attacked: AttackedDatabase,
) -> None:
    keys = attacked.admin.execute(FOREIGN_KEYS).fetchall()
    attacked.admin.rollback()

    assert [name for name, *_ in keys] == ["of_chat"], "the store itself has none"
    for name, table, target, columns, others in keys:
        (column,), (other,) = columns[1:], others[1:]
        for own, its in ((table, column), (target, other)):  # bob may have a row with an id of hers
            hers = f"select {other} from {target} where user_id <> 'bob'"
            attacked.admin.execute(f"delete from {own} where user_id = 'bob' and {its} in ({hers})")
        attacked.admin.commit()
        attack = Attack(
            name,
            [
                f"alter table {table} drop constraint {name}",
                f"create unique index on {target} ({other})",
                (
                    f"alter table {table} add constraint {name} foreign key ({column})"
                    f" references {target} ({other})"
                ),
            ],
            f"insert into {table} $POINTING returning 'points at alice'",
        )
        words = placeholders(attacked.admin, table)
        attacked.admin.commit()
        weakened = try_without_defence(attacked.admin, attack, words)
        assert weakened.returned == 1, weakened.error
        outcome = try_with_defence(attacked.attacker, attacked.admin, attack, words)
        assert (outcome.returned, outcome.changed) == (0, 0)
        absent = Attack(name, [], attack.sql.replace("$POINTING", "$NOWHERE"))
        nothing = try_with_defence(attacked.attacker, attacked.admin, absent, words)
        assert mask_ids(outcome.error) == mask_ids(nothing.error), (
            "a row of hers and an absent one must be answered alike"
        )


def test_a_message_of_bob_that_names_a_conversation_of_alice_shows_neither_anything(
    attacked: AttackedDatabase,
) -> None:
    """Without a foreign key PostgreSQL accepts the row; it is his, and so is what it names."""
    words = attacked.words["eventstore.message"]
    read = (
        "select m.user_id, c.user_id from eventstore.message as m"
        " join eventstore.conversation as c on c.id = m.conversation_id"
        f" where c.id = '{words['$CHAT']}'"
    )
    before = others_rows(attacked.admin)
    with attacked.attacker.transaction(force_rollback=True):
        attacked.attacker.execute(AS_BOB)
        attacked.attacker.execute(f"insert into eventstore.message {words['$POINTING']}")
        bobs_view = attacked.attacker.execute(read).fetchall()
        attacked.attacker.execute("select set_config('eventstore.user_id', 'alice', true)")
        alices_view = attacked.attacker.execute(read).fetchall()

    assert {*bobs_view} <= {("bob", "bob")}
    assert {*alices_view} == {("alice", "alice")}
    assert others_rows(attacked.admin) == before
    attacked.admin.rollback()


def mask_ids(error: str) -> str:
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", error)


@pytest.mark.parametrize("table", READ_MODELS)
def test_a_read_model_can_be_locked_because_the_application_role_may_delete_its_rows(
    attacked: AttackedDatabase, table: str
) -> None:
    """A lock reveals nothing; a statement timeout ends it, and revoked rights prevent it."""
    lock = Attack("lock", [], f"lock table {table} in access exclusive mode; select 'alice'")
    revoked = Attack("lock", [f"revoke update, delete on {table} from eventstore_app"], lock.sql)

    locked = try_with_defence(attacked.attacker, attacked.admin, lock, attacked.words[table])

    assert (locked.returned, locked.changed) == (1, 0)
    assert (
        "permission denied"
        in try_without_defence(attacked.admin, revoked, attacked.words[table]).error
    )


@pytest.mark.parametrize("table", TABLES)
def test_a_key_of_alice_and_an_absent_key_are_refused_alike(
    attacked: AttackedDatabase, table: str
) -> None:
    """Row-level security refuses a row in her name before PostgreSQL checks any key."""
    words = attacked.words[table]
    answers = {
        try_with_defence(
            attacked.attacker,
            attacked.admin,
            Attack("probe", [], f"insert into {table} {row} on conflict do nothing"),
            words,
        ).error
        for row in (words["$HERS"], words["$FORGED"])
    }

    assert len(answers) == 1
    assert "row-level security" in str(answers) or "permission denied" in str(answers)
