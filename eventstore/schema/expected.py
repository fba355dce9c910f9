"""
What the newest revision leaves in the catalog, as PostgreSQL 15 to 18 print it.

A migration that changes one of these changes it here too: a migrated database has no finding, and a
test says so. Roles stand under their usual names; see `roles.named`.
"""

from __future__ import annotations

from eventstore.database.roles import Role

__all__ = [
    "CALLED",
    "COLUMNS",
    "COMMANDS",
    "CONSTRAINTS",
    "FORMS",
    "FUNCTIONS",
    "LISTED_COLUMNS",
    "MOVED_COLUMNS",
    "OWN_ROWS",
    "POLICIES",
    "POLICY_OF",
    "RIGHTS_OF_ERASER",
    "SCOPE_BODIES",
    "SCOPE_FUNCTION",
    "TRIGGERS",
]

OWN_ROWS = (
    "(user_id = eventstore.current_user_id())",
    "((user_id)::text = eventstore.current_user_id())",  # where the column is a varchar
)

POLICIES = {
    Role.OPERATOR: "(CURRENT_USER = 'eventstore_operator'::name)",
    Role.ERASER: (
        "((user_id = eventstore.current_user_id()) AND (CURRENT_USER = 'eventstore_eraser'::name))"
    ),
}

POLICY_OF = {
    Role.APPLICATION: "own_rows",
    Role.OPERATOR: "operator_lists",
    Role.ERASER: "eraser_erases",
}
"""The policy on events that names each role: by it one knows for whom a database was migrated."""

COMMANDS = {Role.APPLICATION: {"*"}, Role.OPERATOR: {"r", "*"}, Role.ERASER: {"*"}}
"""Which commands their policies are for: `*` is all, `r` is SELECT."""

SCOPE_FUNCTION = "eventstore.current_user_id()"
SCOPE_BODIES = {
    "RETURN NULLIF(current_setting('eventstore.user_id'::text, true), ''::text)",
}

_FIXED = ["search_path=pg_catalog, pg_temp"]
FORMS = {
    "current_user_id": ("s", False, list[str]()),
    "append_events": ("v", False, _FIXED),
    "refuse_change": ("v", False, _FIXED),
    "refuse_other_than_erasure": ("v", False, _FIXED),
}
"""Volatility, strictness and settings: declared otherwise, one is planned or called otherwise."""

FUNCTIONS = {
    "append_events": "2eed090d2c2a3218fc295217206989a5",
    "refuse_change": "5b32691c4d137f308be85707ee8f888a",
    "refuse_other_than_erasure": "3a68f24235fb31397262c54aadbda734",
}
"""MD5 of their bodies, as the server computes it."""

CALLED = {"append_events", "current_user_id"}

_EVENT, _LOG, _STREAM = "eventstore.event", "eventstore.user_log", "eventstore.stream"
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
            f"CREATE TRIGGER forward_only BEFORE UPDATE ON {_LOG} FOR EACH ROW"
            f' WHEN ((new."position" <= old."position")) {_REFUSE}'
        ),
    },
    _STREAM: {
        "append_only": _append_only(_STREAM),
        "forward_only": (
            f"CREATE TRIGGER forward_only BEFORE UPDATE ON {_STREAM} FOR EACH ROW"
            " WHEN (((new.version < old.version) OR (old.closed AND (NOT new.closed))))"
            f" {_REFUSE}"
        ),
    },
}

_USER_ID = "CHECK (((length(user_id) >= 1) AND (length(user_id) <= 255)))"


def _not_null(*columns: str) -> dict[str, str]:
    return {f"{column} not null": "NOT NULL" for column in columns}


CONSTRAINTS = {
    "eventstore.task": {"task_pkey": "PRIMARY KEY (user_id, id)"},
    "eventstore.conversation": {"conversation_pkey": "PRIMARY KEY (user_id, id)"},
    "eventstore.message": {
        "message_pkey": "PRIMARY KEY (user_id, id)",
        "message_conversation_position_key": 'UNIQUE (user_id, conversation_id, "position")',
        "message_conversation_fkey": (
            "FOREIGN KEY (user_id, conversation_id)"
            " REFERENCES eventstore.conversation(user_id, id) DEFERRABLE"
        ),
    },
    _LOG: {
        **_not_null("user_id", "position", "hash", "recorded_at"),
        "user_log_pkey": "PRIMARY KEY (user_id)",
        "user_log_position_check": 'CHECK (("position" >= 0))',
        "user_log_user_id_check": _USER_ID,
    },
    _STREAM: {
        **_not_null("user_id", "stream_id", "kind", "version", "closed"),
        "stream_pkey": "PRIMARY KEY (user_id, stream_id)",
        "stream_kind_check": "CHECK ((kind ~ '^[a-z][a-z0-9_]{0,62}$'::text))",
        "stream_user_id_check": _USER_ID,
    },
    _EVENT: {
        **_not_null("user_id", "position", "stream_id", "version", "event_id", "type"),
        **_not_null("schema_version", "recorded_at", "payload_digest", "hash"),
        "event_pkey": 'PRIMARY KEY (user_id, "position")',
        "event_stream_version_key": "UNIQUE (user_id, stream_id, version)",
        "event_idempotency_key": (
            "CREATE UNIQUE INDEX event_idempotency_key ON eventstore.event USING btree"
            " (user_id, idempotency_key) WHERE (idempotency_key IS NOT NULL)"
        ),
        "event_position_check": 'CHECK (("position" > 0))',
        "event_version_check": "CHECK ((version > 0))",
        "event_type_check": "CHECK (((length(type) >= 1) AND (length(type) <= 100)))",
        "event_user_id_check": _USER_ID,
    },
}
"""Without them a double, a gap or a row of nobody could be written; verify would find it later."""

COLUMNS = {
    _LOG: {
        "user_id": "text",
        "position": "bigint",
        "hash": "bytea",
        "recorded_at": "timestamp with time zone",
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
        "idempotency_key": "text",
        "fingerprint": "bytea",
        "recorded_at": "timestamp with time zone",
        "salt": "bytea",
        "payload_digest": "bytea",
        "hash": "bytea",
    },
}
"""In another type a payload or an instant would come back otherwise, and no hash would fit."""

MOVED_COLUMNS = {
    _LOG: {"position", "hash", "recorded_at"},
    _STREAM: {"version", "closed"},
}
"""What the application may update in the log: what an append moves on, and never a whole table."""

LISTED_COLUMNS = {
    _LOG: {"user_id", "position", "hash", "recorded_at"},
    "eventstore.rebuild_progress": {"user_id", "started_at", "finished_at"},
}
"""What the operator may read beside the ids of users: its policy lets every row through."""

RIGHTS_OF_ERASER = {
    "user_id select",
    "position select",
    "stream_id select",
    "type select",
    "idempotency_key select",
    "salt select",
    "payload update",
    "metadata update",
    "salt update",
    "fingerprint update",
}
