"""Whether a database can serve: what probes ask, in one round trip, as the login of the service."""

from __future__ import annotations

import time
from dataclasses import dataclass

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.schema.expected import REVISIONS

__all__ = ["Health", "is_pending", "read_health"]

# The user's row of nobody: found along user_log_pkey, so the size of no table matters.
_HEALTH = """
select (select string_agg(version_num, ', ') from eventstore.alembic_version),
       current_setting('transaction_read_only') = 'on',
       exists (select from eventstore.user_log where user_id = '')
"""


@dataclass(frozen=True, slots=True)
class Health:
    """
    That the server answers, and whether this release can work on its database.

    :ivar revision: the schema's; `none` if it has none.
    :ivar head: the newest revision that this release knows.
    :ivar migration_pending: the schema is older than this release needs: run `eventstore migrate`.
        A schema that is newer than this release is none of its concern, so that a deployment may
        migrate first.
    :ivar read_only: the server takes no writes: a standby, or what a provider does at a full disk.
    :ivar seconds: from the question to the answer, with the wait for a connection.
    """

    revision: str
    head: str
    migration_pending: bool
    read_only: bool
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether everything works: no migration is pending, and the server takes writes."""
        return not self.migration_pending and not self.read_only


def read_health() -> Plan[Health]:
    """Ask as nobody's user: server, login, role, schema and rights answer, in one round trip."""
    began = time.monotonic()
    (((revision, read_only, _),),) = yield Batch(user_scope(""), (Statement(_HEALTH),))
    return Health(
        revision or "none",
        REVISIONS[-1],
        is_pending(revision),
        read_only,
        time.monotonic() - began,
    )


def is_pending(revision: str | None) -> bool:
    """Return whether a schema at this revision is older than what this release needs."""
    return revision is None or revision in REVISIONS[:-1]
