"""
The state of the system catalog after the newest revision, as PostgreSQL 15 to 18 print it.

A migration that changes one of these objects changes this file too; a test checks that the doctor
finds nothing in a migrated database. The roles have their default names here;
`roles.with_role_names` replaces them.
"""

from __future__ import annotations

from eventstore.database.roles import Role

__all__ = [
    "APPLICATION_INSERTS",
    "APPLICATION_UPDATES",
    "CALLED_FUNCTIONS",
    "COLUMNS",
    "CONSTRAINTS",
    "ERASER_RIGHTS",
    "FUNCTION_DECLARATIONS",
    "FUNCTION_DIGESTS",
    "OPERATOR_READS",
    "OPERATOR_UPDATES",
    "OWN_ROWS",
    "POLICIES",
    "POLICY_COMMANDS",
    "POLICY_OF",
    "REVISIONS",
    "SCOPE_BODIES",
    "SCOPE_FUNCTION",
    "TRIGGERS",
]

REVISIONS = ("0001",)
"""The revisions that `migrations/` has, oldest first: Alembic takes long to import for one name."""

# The doctor compares texts, so a policy that says the same in other words is refused too.
OWN_ROWS = (
    "(user_id = eventstore.current_user_id())",
    "((user_id)::text = eventstore.current_user_id())",  # if the column is a varchar
)
"""The expressions of a policy for the application role, on a table of the store or a projector."""

POLICIES = {
    Role.OPERATOR: "(CURRENT_USER = 'eventstore_operator'::name)",
    Role.ERASER: (
        "((user_id = eventstore.current_user_id()) AND (CURRENT_USER = 'eventstore_eraser'::name))"
    ),
}
"""The expressions of the policies for the other roles."""

POLICY_OF = {
    Role.APPLICATION: "own_rows",
    Role.OPERATOR: "operator_lists",
    Role.ERASER: "eraser_erases",
}
"""The policy on events for each role; it shows which names the roles had in the migration."""

POLICY_COMMANDS = {Role.APPLICATION: {"*"}, Role.OPERATOR: {"r", "*"}, Role.ERASER: {"*"}}
"""The commands that the policies of each role may be for: `*` is all, `r` is SELECT."""

SCOPE_FUNCTION = "eventstore.current_user_id()"
SCOPE_BODIES = {
    "RETURN NULLIF(current_setting('eventstore.user_id'::text, true), ''::text)",
}
"""The body of the function by which every policy decides whose rows exist in a transaction."""

_FIXED_PATH = ["search_path=pg_catalog, pg_temp"]
FUNCTION_DECLARATIONS = {
    "current_user_id": ("s", False, list[str]()),
    # What an append runs sets no search path, which costs a fifth of its time: it names schemas.
    "append_event": ("v", False, list[str]()),
    "append_events": ("v", False, list[str]()),
    "position_at": ("s", True, list[str]()),
    "refuse_change": ("v", False, _FIXED_PATH),
    "refuse_older_head": ("v", False, list[str]()),
    "refuse_older_stream": ("v", False, list[str]()),
    "refuse_other_than_erasure": ("v", False, _FIXED_PATH),
}
"""Volatility, strictness and settings of each function; they decide how PostgreSQL calls it."""

FUNCTION_DIGESTS = {
    "append_event": "b2c9092cd2b9eadce0e422fcbf05dd03",
    "append_events": "df1fa098bd41fab8dc81b6d817466753",
    "position_at": "c8d24cb6a89119071b82ef1966b3d6c8",
    "refuse_change": "5b32691c4d137f308be85707ee8f888a",
    "refuse_older_head": "ce5c59c35cc03602fe311d6b63437c3f",
    "refuse_older_stream": "445b3f5c14668b1c5c6ba76cb7bc0ab3",
    "refuse_other_than_erasure": "f5516f10783810955f553b31ca1ce2ee",
}
"""The MD5 digest of the body of each function, as the server computes it."""

# Triggers run their functions without a right to call them.
CALLED_FUNCTIONS = {"append_event", "append_events", "current_user_id", "position_at"}
"""The functions that the application role calls."""

_EVENT, _LOG, _STREAM = "eventstore.event", "eventstore.user_log", "eventstore.stream"
_FEED = "eventstore.feed_checkpoint"
_REFUSE = "EXECUTE FUNCTION eventstore.refuse_change()"


def _append_only(table: str) -> str:
    return (
        f"CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON {table}"
        f" FOR EACH STATEMENT {_REFUSE}"
    )


TRIGGERS = {
    _EVENT: {
        "append_only": _append_only(_EVENT),
        "append_only_update": (
            f"CREATE TRIGGER append_only_update BEFORE UPDATE ON {_EVENT} FOR EACH STATEMENT"
            f" WHEN ((CURRENT_USER <> 'eventstore_eraser'::name)) {_REFUSE}"
        ),
        "erasure_only": (
            f"CREATE TRIGGER erasure_only BEFORE UPDATE ON {_EVENT} FOR EACH ROW"
            " EXECUTE FUNCTION eventstore.refuse_other_than_erasure()"
        ),
    },
    _LOG: {
        "append_only": _append_only(_LOG),
        "forward_only": (
            'CREATE TRIGGER forward_only BEFORE UPDATE OF user_id, "position", hash, recorded_at,'
            f" retried ON {_LOG} FOR EACH ROW EXECUTE FUNCTION eventstore.refuse_older_head()"
        ),
    },
    _STREAM: {
        "append_only": _append_only(_STREAM),
        "forward_only": (
            f"CREATE TRIGGER forward_only BEFORE UPDATE ON {_STREAM} FOR EACH ROW"
            " EXECUTE FUNCTION eventstore.refuse_older_stream()"
        ),
    },
}
"""The triggers that keep the log append-only; see migrations/sql/0001_append_only.sql."""


def _not_null(*columns: str) -> dict[str, str]:
    return {f"{column} not null": "NOT NULL" for column in columns}


CONSTRAINTS = {
    # The store has neither CHECK constraints nor foreign keys: each append would pay for them, and
    # verify finds what they would refuse.
    "eventstore.task": {"task_pkey": "PRIMARY KEY (user_id, id)"},
    "eventstore.conversation": {"conversation_pkey": "PRIMARY KEY (user_id, id)"},
    "eventstore.message": {
        "message_pkey": "PRIMARY KEY (user_id, id)",
        "message_conversation_position_key": 'UNIQUE (user_id, conversation_id, "position")',
    },
    "eventstore.tool_call": {
        "tool_call_pkey": "PRIMARY KEY (user_id, id)",
    },
    # Without the index two turns of a conversation could run at once.
    "eventstore.turn": {
        "turn_pkey": "PRIMARY KEY (user_id, id)",
        "turn_running": (
            "CREATE UNIQUE INDEX turn_running ON eventstore.turn USING btree"
            " (user_id, conversation_id)"
            " WHERE ((status = 'running'::text) AND (lease_seconds > 0))"
        ),
    },
    # Without its key two workers could have one user.
    _FEED: {"feed_checkpoint_pkey": "PRIMARY KEY (user_id, feed)"},
    _LOG: {
        **_not_null("user_id", "position", "hash", "recorded_at"),
        "user_log_pkey": "PRIMARY KEY (user_id)",
    },
    _STREAM: {
        **_not_null("user_id", "stream_id", "kind", "version", "closed"),
        "stream_pkey": "PRIMARY KEY (user_id, stream_id)",
    },
    _EVENT: {
        **_not_null("user_id", "position", "stream_id", "version", "event_id", "type"),
        **_not_null("schema_version", "recorded_at", "payload_digest", "hash"),
        "event_pkey": 'PRIMARY KEY (user_id, "position")',
        "event_idempotency_key": (
            "CREATE UNIQUE INDEX event_idempotency_key ON eventstore.event USING btree"
            " (user_id, idempotency_key) WHERE (idempotency_key IS NOT NULL)"
        ),
        "event_stream": (
            "CREATE INDEX event_stream ON eventstore.event USING btree"
            ' (user_id, stream_id, "position")'
        ),
    },
}
"""
Constraints, indexes and NOT NULL columns.

Without them a duplicate, a gap or a row without a user could be written, which only a later
verification would find.
"""

COLUMNS = {
    _LOG: {
        "user_id": "text",
        "position": "bigint",
        "hash": "bytea",
        "recorded_at": "timestamp with time zone",
        "retried": "uuid[]",
        "quota": "bigint",
    },
    _STREAM: {
        "user_id": "text",
        "stream_id": "uuid",
        "kind": "text",
        "version": "bigint",
        "closed": "boolean",
    },
    _EVENT: {
        "user_id": "text",
        "position": "bigint",
        "stream_id": "uuid",
        "version": "bigint",
        "event_id": "uuid",
        "type": "text",
        "schema_version": "integer",
        "payload": "json",
        "metadata": "json",
        "correlation_id": "uuid",
        "causation_id": "uuid",
        "occurred_at": "timestamp with time zone",
        "idempotency_key": "text",
        "append_size": "integer",
        "recorded_at": "timestamp with time zone",
        "salt": "bytea",
        "payload_digest": "bytea",
        "hash": "bytea",
    },
}
"""The types of columns; with another type, a value could come back changed and not fit its hash."""

APPLICATION_UPDATES = {
    _LOG: {"position", "hash", "recorded_at", "retried"},
    _STREAM: {"version", "closed"},
}
"""
The columns of the log that the application role may update, because every append does.

They are never all columns of a table: the right to update a whole table includes the right to lock
it, and one lock would stop the appends of all users.
"""

APPLICATION_INSERTS = {_LOG: {"user_id", "position", "hash", "recorded_at"}}
"""The columns that the application role gives a new row; elsewhere all. A quota is none of them."""

OPERATOR_READS = {
    _LOG: {"user_id", "position", "hash", "recorded_at", "quota"},
    "eventstore.rebuild_progress": {"user_id", "started_at", "finished_at", "fingerprint"},
    "eventstore.tool_call": {"user_id", "status", "claimed_at", "claim_seconds"},
    "eventstore.turn": {"user_id", "status", "leased_at", "lease_seconds"},
    _FEED: {"user_id", "feed", "position", "since", "free_at", "failures", "failed_at"},
}
"""The columns that the operator role may read; of any other table, it may read `user_id` alone."""

OPERATOR_UPDATES = {
    _LOG: {"quota"},
    "eventstore.rebuild_progress": {"user_id", "started_at", "finished_at", "fingerprint"},
}
"""The columns that the operator role may update; of any other table, it may update none."""

ERASER_RIGHTS = {
    "user_id select",
    "position select",
    "stream_id select",
    "type select",
    "salt select",
    "payload update",
    "metadata update",
    "salt update",
}
"""The rights of the eraser role on columns of `event`: it finds events, and reads no payload."""
