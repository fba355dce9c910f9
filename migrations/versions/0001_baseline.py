"""
The baseline: the log, its append function, the read models, and the roles and their rights.

Revises: nothing

It may still change until version 0.1.0 is released, because nobody has it. From then on a released
revision is never edited: every change of the schema is a revision of its own.
"""

from __future__ import annotations

from eventstore.schema.migrate import run_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything in the schema `eventstore`, and the roles that the server lacks."""
    for name in ("0001_tables", "0001_append_events", "0001_append_only", "0001_security"):
        run_script(name)


def downgrade() -> None:
    """
    Remove everything in the schema, unless that would destroy recorded events.

    The roles stay: they belong to the server, and other databases on it may use them.
    """
    run_script("0001_down")
