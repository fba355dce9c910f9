"""Import: what is there already is skipped if it is the same, and refused if it is more or less."""

from __future__ import annotations

import pytest

from eventstore import EventStore, IdempotencyConflict
from eventstore.events.fields import MAX_BATCH
from eventstore.store.chat_import import ChatConversation

MESSAGES = [{"role": "user", "content": str(number)} for number in range(2 * MAX_BATCH + 5)]


@pytest.mark.parametrize("there", [MAX_BATCH - 1, MAX_BATCH, MAX_BATCH + 400, 2 * MAX_BATCH - 1])
@pytest.mark.parametrize("more", [1, 5])
def test_a_conversation_that_goes_on_is_not_a_shorter_one(
    store: EventStore, there: int, more: int
) -> None:
    """An append has a thousand events, and the first is that a conversation was started."""
    short, long = (ChatConversation("k", MESSAGES[:count]) for count in (there, there + more))
    for first, second, user_id in ((short, long, "alice"), (long, short, "bob")):
        assert store.import_conversations([(user_id, first)]).conversations == 1
        assert store.import_conversations([(user_id, first)]).skipped == 1

        with pytest.raises(IdempotencyConflict, match="exists with other content"):
            store.import_conversations([(user_id, second)])
