"""
Quotas: how many events a user's log may hold.

The quota stands in the head of the log, which each append locks and reads anyway, so to check it
costs no statement. It counts events and not bytes, because the head's position is their number.
Only the operator role may change it: see migrations/sql/0001_security.sql.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import operator
from eventstore.errors import NotFound

__all__ = ["Quota", "read_quota", "write_quota"]

_READ = "select position, quota from eventstore.user_log where user_id = $1"
_WRITE = "update eventstore.user_log set quota = $2 where user_id = $1 returning position, quota"


@dataclass(frozen=True, slots=True)
class Quota:
    """
    How many events a user's log may hold.

    :ivar events: how many it holds, erased ones too.
    :ivar limit: how many it may hold; None for as many as the user appends.
    """

    user_id: str
    events: int
    limit: int | None


def read_quota(user_id: str) -> Plan[Quota]:
    """
    Return a user's quota; one round trip. Index: `user_log_pkey`.

    :raises NotFound: the user has no log.
    :raises AccessDenied: the login may not enter the operator role.
    """
    return _quota(user_id, Statement(_READ, (user_id,)))


def write_quota(user_id: str, limit: int | None) -> Plan[Quota]:
    """
    Set a user's quota, and return it; one round trip. Index: `user_log_pkey`.

    It waits for an append of the user that is under way, and holds for the next one.

    :raises NotFound: the user has no log.
    :raises AccessDenied: the login may not enter the operator role.
    """
    return _quota(user_id, Statement(_WRITE, (user_id, limit)))


def _quota(user_id: str, statement: Statement) -> Plan[Quota]:
    (rows,) = yield Batch(operator, (statement,))
    if not rows:
        raise NotFound("user", user_id)
    return Quota(user_id, *rows[0])
