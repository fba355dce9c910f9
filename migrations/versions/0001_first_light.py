"""
The log, its append function, the read models, and who may do what.

Revises: nothing
"""

from __future__ import annotations

from alembic import op

from eventstore.store.migrate import run_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything in the schema `eventstore`, and the two roles if the server lacks them."""
    for name in ("0001_tables", "0001_append_events", "0001_security"):
        run_script(name)


def downgrade() -> None:
    """
    Remove the schema, unless that would destroy recorded events.

    The roles stay: they belong to the server, and other databases on it may use them.
    """
    op.execute(
        """
        do $$
        begin
            -- The owner is blind to the rows (forced row-level security): pages never lie.
            if pg_relation_size('eventstore.event') > 0 then
                raise exception 'the log holds events that downgrading would destroy'
                    using errcode = 'VE005';
            end if;
        end
        $$
        """
    )
    for table in ("message", "conversation", "task", "rebuild_progress", "event", "stream"):
        op.execute(f"drop table eventstore.{table}")
    op.execute("drop table eventstore.user_log")
    op.execute(
        "drop function eventstore.append_events(text, jsonb, jsonb, json, json, text, bytea)"
    )
    op.execute("drop function eventstore.current_user_id()")
