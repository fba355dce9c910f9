"""
The matrix: what one user tries on another's rows, on every table, as the application role.

Each attack is tried twice: on a copy without the defence it is about, where it must succeed, and
for real, where it must be shown nothing and change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from tests.attacks.catalogue import ATTACKS, READ_MODELS
from tests.attacks.support import (
    TABLES,
    Attack,
    attacker_url,
    given_two_users,
    placeholders,
    save_bobs_rows,
    try_for_real,
    try_weakened,
)
from tests.support.server import Server


@dataclass
class Place:
    """A database with two users in it: a superuser's connection, and the attacker's."""

    admin: psycopg.Connection
    attacker: psycopg.Connection
    words: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def place(server: Server) -> Iterator[Place]:
    url = server.create_database()
    given_two_users(server, url)
    with (
        psycopg.connect(server.direct(url)) as admin,
        psycopg.connect(
            attacker_url(server, url), autocommit=True, prepare_threshold=None
        ) as attacker,
    ):
        save_bobs_rows(admin)
        yield Place(admin, attacker, {name: placeholders(admin, name) for name in TABLES})
    server.drop_database(url)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_succeeds_without_its_defence(place: Place, name: str) -> None:
    table, attack = ATTACKS[name]

    outcome = try_weakened(place.admin, attack, place.words[table])

    assert outcome.seen + outcome.changed > 0, f"it proves nothing: {outcome}"


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_sees_no_row_and_changes_none(place: Place, name: str) -> None:
    table, attack = ATTACKS[name]

    outcome = try_for_real(place.attacker, place.admin, attack, place.words[table])

    assert (outcome.seen, outcome.changed) == (0, 0), outcome.error


def test_every_kind_of_attack_is_tried_on_every_table() -> None:
    tried = {name: [one for one, _ in ATTACKS.values()].count(name) for name in TABLES}

    assert len(TABLES) == 9
    assert min(tried.values()) >= 35
    assert len(ATTACKS) >= 330


FOREIGN_KEYS = """
select conname, conrelid::regclass::text, confrelid::regclass::text,
       array(select attname::text from unnest(conkey) with ordinality as k (number, place)
             join pg_attribute on attrelid = conrelid and attnum = number order by place),
       array(select attname::text from unnest(confkey) with ordinality as k (number, place)
             join pg_attribute on attrelid = confrelid and attnum = number order by place)
from pg_constraint
where contype = 'f' and connamespace in ('eventstore'::regnamespace, 'service'::regnamespace)
"""


def test_no_row_of_bobs_can_point_at_one_of_alices_by_any_foreign_key(place: Place) -> None:
    keys = place.admin.execute(FOREIGN_KEYS).fetchall()
    place.admin.rollback()

    assert keys
    for name, table, target, columns, others in keys:
        (column,), (other,) = columns[1:], others[1:]
        for own, its in ((table, column), (target, other)):  # an id of hers that bob took as his
            hers = f"select {other} from {target} where user_id <> 'bob'"
            place.admin.execute(f"delete from {own} where user_id = 'bob' and {its} in ({hers})")
        place.admin.commit()
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
        words = place.words[table]
        weakened = try_weakened(place.admin, attack, words)
        assert weakened.seen == 1, weakened.error
        outcome = try_for_real(place.attacker, place.admin, attack, words)
        assert (outcome.seen, outcome.changed) == (0, 0)
        absent = Attack(name, [], attack.sql.replace("$POINTING", "$NOWHERE"))
        nothing = try_for_real(place.attacker, place.admin, absent, words)
        assert masked(outcome.error) == masked(nothing.error), "her row and none: the same answer"


def masked(error: str) -> str:
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", error)


@pytest.mark.parametrize("table", READ_MODELS)
def test_a_read_model_can_be_locked_because_rows_may_be_deleted_there(
    place: Place, table: str
) -> None:
    """It is load and no leak: a statement limit ends it; taking the right away ends it too."""
    lock = Attack("lock", [], f"lock table {table} in access exclusive mode; select 'alice'")
    narrow = Attack("lock", [f"revoke update, delete on {table} from eventstore_app"], lock.sql)

    locked = try_for_real(place.attacker, place.admin, lock, place.words[table])

    assert (locked.seen, locked.changed) == (1, 0)
    assert "permission denied" in try_weakened(place.admin, narrow, place.words[table]).error


@pytest.mark.parametrize("table", TABLES)
def test_her_key_and_an_absent_one_are_refused_alike(place: Place, table: str) -> None:
    """An upsert that says it is hers is refused by its name before any key is looked at."""
    words = place.words[table]
    answers = {
        try_for_real(
            place.attacker,
            place.admin,
            Attack("probe", [], f"insert into {table} {row} on conflict do nothing"),
            words,
        ).error
        for row in (words["$HERS"], words["$FORGED"])
    }

    assert len(answers) == 1
    assert "row-level security" in str(answers) or "permission denied" in str(answers)
