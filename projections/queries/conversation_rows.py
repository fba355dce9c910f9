"""
The columns of conversations as queries select them, with the number of their messages.

The number is counted when it is asked for, and stands in no table: a projector knows an event and
not how many messages a rewind leaves (docs/decisions/0027).
"""

from __future__ import annotations

from projections.models.conversation import ConversationView
from projections.queries.moments import moment_position

__all__ = ["CONVERSATION_COLUMNS", "CONVERSATION_DECISION_COLUMNS", "PAST_MESSAGE_COUNTS"]

# Index: message_conversation_position_key.
_MESSAGE_COUNT = """(
    select count(*) from eventstore.message as m
    where m.user_id = c.user_id and m.conversation_id = c.id and m.retracted_at is null
)"""

CONVERSATION_COLUMNS = ", ".join(
    _MESSAGE_COUNT if name == "message_count" else f"c.{name}"
    for name in ConversationView.columns()
)
"""The select list of `conversation as c`, in the order of `ConversationView.columns()`."""

CONVERSATION_DECISION_COLUMNS = (*ConversationView.columns(), "deleted_position", "last_message_id")
"""What decisions on a conversation see of it: also whether it is deleted, and its last message."""

# $2 and $3 are the moment, $4 the conversations. Index: message_conversation_position_key.
PAST_MESSAGE_COUNTS = f"""
select conversation_id, count(*)
from eventstore.message
where user_id = $1
  and conversation_id = any($4)
  and position <= {moment_position(2, 3)}
  and (retracted_position is null or retracted_position > {moment_position(2, 3)})
group by conversation_id
"""
"""How many messages some conversations had at a moment; those without any are left out."""
