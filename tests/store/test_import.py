"""An import skips a stored conversation and refuses one with the same key and other messages."""

from __future__ import annotations

import pytest

from eventstore import EventStore, IdempotencyConflict
from eventstore.events.fields import MAX_BATCH
from eventstore.store.chat_import import ChatConversation

MESSAGES = [{"role": "user", "content": str(number)} for number in range(2 * MAX_BATCH + 5)]


@pytest.mark.parametrize("stored", [MAX_BATCH - 1, MAX_BATCH, MAX_BATCH + 400, 2 * MAX_BATCH - 1])
@pytest.mark.parametrize("more", [1, 5])
def test_a_stored_conversation_with_more_or_fewer_messages_is_refused(
    store: EventStore, stored: int, more: int
) -> None:
    """The lengths are at the limit of an append, whose first event starts the conversation."""
    short, long = (ChatConversation("k", MESSAGES[:count]) for count in (stored, stored + more))
    for first, second, user_id in ((short, long, "alice"), (long, short, "bob")):
        assert store.import_conversations([(user_id, first)]).conversations == 1
        assert store.import_conversations([(user_id, first)]).skipped == 1

        with pytest.raises(IdempotencyConflict, match="exists with other content"):
            store.import_conversations([(user_id, second)])
