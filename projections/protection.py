"""
Protect the table of a projector of your own, as the built-in ones are.

A read model that is not protected would show one user another's rows. `protection_sql` gives the
statements for your own migration; the store refuses to write as the application role without them.
"""

from __future__ import annotations

from sqlmodel import SQLModel

from projections.projector import TableShape

__all__ = ["protection_sql"]


def protection_sql(table: type[SQLModel]) -> list[str]:
    """
    Return the SQL that puts a read-model table under row-level security and grants.

    Run it once as the table's owner, after `create table` and after `eventstore migrate`.

    :raises ConfigurationError: the primary key does not begin with `user_id`.
    """
    name = TableShape(table).name
    schema = name.partition(".")[0]
    return [
        f"alter table {name} enable row level security",
        f"alter table {name} force row level security",
        (
            f"create policy own_rows on {name} to eventstore_app"
            " using (user_id = eventstore.current_user_id())"
            " with check (user_id = eventstore.current_user_id())"
        ),
        (
            f"create policy operator_lists on {name} for select to eventstore_operator"
            " using (current_user = 'eventstore_operator')"
        ),
        f"grant usage on schema {schema} to eventstore_app, eventstore_operator",
        f"grant select, insert, update, delete on {name} to eventstore_app",
        f"grant select (user_id) on {name} to eventstore_operator",
    ]
