"""
Append-only by trigger, a role that erases, and narrower rights for the application.

Revises: 0001

Safe while users write: appends wait for the milliseconds of the transaction, no table is read or
rewritten, and the release before this one runs on the new schema as it did on the old one, until
something is erased.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy.exc import IntegrityError

from eventstore.errors import ConfigurationError
from eventstore.store.migrate import run_script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the log append-only for its owner too, and erasable by a role of its own."""
    for name in ("0002_append_only", "0002_rights"):
        run_script(name)


def downgrade() -> None:
    """
    Take triggers, role and rights back, unless events were erased: 0001 cannot hold those.

    That none was is a constraint, validated while users write, before anything is undone; with it
    the columns become NOT NULL without reading the table under a lock. The role stays: it belongs
    to the server, and other databases on it may use it.
    """
    op.execute("alter table eventstore.event drop constraint if exists event_not_erased")
    op.execute(
        "alter table eventstore.event add constraint event_not_erased check"
        " (payload is not null and metadata is not null and salt is not null) not valid"
    )
    with op.get_context().autocommit_block():
        try:
            op.execute("alter table eventstore.event validate constraint event_not_erased")
        except IntegrityError:
            op.execute("alter table eventstore.event drop constraint event_not_erased")
            raise ConfigurationError(
                "the log holds erased events, which the schema before 0002 cannot hold; "
                "stay at this revision, nothing was changed"
            ) from None
    run_script("0002_down")
