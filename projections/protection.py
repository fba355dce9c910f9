"""
Protect the table of a projector of your own, as the built-in ones are.

A read model that is not protected would show one user another's rows. `protection_sql` gives the
statements for your own migration; without them `EventStore.connect` refuses the projector.
"""

from __future__ import annotations

from sqlmodel import SQLModel

from eventstore.database.roles import Role
from projections.apply.table_shape import TableShape

__all__ = ["protection_sql"]


def protection_sql(
    table: type[SQLModel],
    *,
    application_role: str = Role.APPLICATION.value,
    operator_role: str = Role.OPERATOR.value,
) -> list[str]:
    """
    Return the SQL that puts a read-model table under row-level security and grants.

    Run it once as the table's owner, after `create table` and after `eventstore migrate`. The store
    connects with no projector whose table lacks it.

    :param application_role: as in EVENTSTORE_APPLICATION_ROLE; the operator's likewise.
    :return: statements to run in this order, without semicolons.
    :raises ConfigurationError: the primary key does not begin with `user_id`, or the table cannot
        be kept by a projector: see docs/python.md.
    """
    shape = TableShape(table)
    name, schema = shape.name, shape.name.partition(".")[0]
    return [
        f"alter table {name} enable row level security",
        # Without `force` the policies do not hold for the owner of the table.
        f"alter table {name} force row level security",
        (
            f"create policy own_rows on {name} to {application_role}"
            " using (user_id = eventstore.current_user_id())"
            " with check (user_id = eventstore.current_user_id())"
        ),
        # A policy holds for members of its role too. It asks who is asking, so that a login which
        # inherits several roles does not combine their rights.
        (
            f"create policy operator_lists on {name} for select to {operator_role}"
            f" using (current_user = '{operator_role}')"
        ),
        f"grant usage on schema {schema} to {application_role}, {operator_role}",
        f"grant select, insert, update, delete on {name} to {application_role}",
        # Listing users needs their ids and no content.
        f"grant select (user_id) on {name} to {operator_role}",
    ]
