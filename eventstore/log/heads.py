"""Read the heads of logs: of some users, or of all in pages, in the order of their ids."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import operator, user_scope
from eventstore.database.timestamps import readable_timestamp
from eventstore.errors import CorruptLog, NotFound
from eventstore.log.anchors import Head

__all__ = ["heads_of", "heads_page"]

_HEADS = f"""
select user_id, position, hash, {readable_timestamp("recorded_at")} from eventstore.user_log
"""
_OF_ONE = f"{_HEADS} where user_id = $1"
# A head at position 0 stands for no event, so there is nothing to anchor.
_PAGE = f"{_HEADS} where user_id > $1 and position <> 0 order by user_id limit $2"


def heads_of(user_ids: Sequence[str]) -> Plan[list[Head]]:
    """
    Return the heads of some users, each read in that user's scope; one round trip each.

    Index: `user_log_pkey`.

    :return: the heads in the order of `user_ids`.
    :raises NotFound: a user has no log.
    :raises CorruptLog: a head has nulls, so the table was tampered with.
    """
    heads = []
    for user_id in user_ids:
        (rows,) = yield Batch(user_scope(user_id), (Statement(_OF_ONE, (user_id,)),))
        if not rows:
            raise NotFound("user", user_id)
        heads.append(_head(rows[0]))
    return heads


def heads_page(after: str, limit: int) -> Plan[list[Head]]:
    """
    Return a page of the heads of all users, in the order of their ids, read as the operator.

    Index: `user_log_pkey`.

    :param after: the last user id of the page before; empty text for the first page.
    :param limit: heads at most.
    :raises CorruptLog: a head has nulls, so the table was tampered with.
    """
    (rows,) = yield Batch(operator, (Statement(_PAGE, (after, limit)),))
    return [_head(row) for row in rows]


def _head(row: tuple[Any, ...]) -> Head:
    user_id, position, hash_, recorded_at = row
    # The columns refuse nulls unless somebody has changed the table.
    if position is None or hash_ is None or recorded_at is None:
        raise CorruptLog(f"the head of user {user_id!r} has nulls; run verify")
    return Head(user_id, position, hash_, recorded_at.astimezone(UTC))
