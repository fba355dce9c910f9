"""
List the users there are, as the operator: their ids and where their logs end, nothing more.

Users whose log is gone but whose rows remain are listed too: verify must find those rows.
"""

from __future__ import annotations

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import operator
from eventstore.log.tables import LOG_TABLES
from projections.projector import Projections

__all__ = ["list_users", "users_union"]


def list_users(projections: Projections) -> Plan[list[str]]:
    """
    Return every user id that stands in any table of the log or of a projector, sorted.

    :raises AccessDenied: the login may not enter the operator role.
    """
    (rows,) = yield Batch(operator, (Statement(f"{users_union(projections)} order by 1"),))
    return [user_id for (user_id,) in rows]


def users_union(projections: Projections) -> str:
    """Return the query of all user ids: hops along each table's key, never scans it."""
    tables = [*LOG_TABLES, *(shape.name for shape in projections.shapes)]
    return " union ".join(map(_hop, tables))


def _hop(table: str) -> str:
    # PostgreSQL has no skip scan for `distinct`, so each step looks up the next id in the primary
    # key: the cost is one look-up for each user, and not one row read for each event.
    return f"""(
    with recursive hop (user_id) as (
        (select user_id from {table} order by user_id limit 1)
        union all
        select (select t.user_id from {table} as t
                where t.user_id > hop.user_id order by t.user_id limit 1)
        from hop where hop.user_id is not null
    )
    select user_id from hop where user_id is not null)"""
