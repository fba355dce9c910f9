"""
pydantic-ai: the conversations of its agents, in one user's log.

A conversation of pydantic-ai's is the conversation with that key, and its entries are messages
there, with the entries' ids. A save is one append: new messages, and an event with the record.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter
from pydantic_ai.conversation_store import ConversationConflict, ConversationStore
from pydantic_ai.conversation_store import ConversationEntry as Entry
from pydantic_ai.conversation_store import ConversationRecord as Record
from pydantic_ai.messages import ModelMessagesTypeAdapter

from eventstore import AsyncUser, Event, Expected, NewEvent, StreamClosed, WrongVersion
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.events.conversations import ConversationDeleted, ConversationRestarted, start
from eventstore.events.messages import MessagePosted
from eventstore.log.envelope import ExpectedVersion
from eventstore.log.ids import parse_uuid, resolve_conversation, uuid7

__all__ = ["AgentConversationSaved", "AgentConversations", "extensions"]

_SAVED_RECORD = TypeAdapter(dict[str, Record])

# The newest record of each conversation, unless the conversation began anew since. Indexes:
# stream_pkey, event_stream. No operator looks into JSON: it would fail where there is NUL.
_SAVED = """
select stream.version, stream.closed, newest.payload::text
from eventstore.stream
left join lateral (
  select type, payload, position
  from eventstore.event
  where user_id = stream.user_id and stream_id = stream.stream_id
    and type in ('PydanticAIConversationSaved', 'ConversationRestarted')
  order by stream_id desc, position desc
  limit 1
) as newest on newest.type = 'PydanticAIConversationSaved'
where stream.user_id = $1
"""
_ONE = _SAVED + "and stream.stream_id = $2"
_ALL = _SAVED + "and payload is not null and not closed order by position desc limit $2"

# The id of an entry does not name its conversation. Indexes: message_pkey, and then
# message_conversation_position_key.
_SAID = """
select said.id::text, said.body::text
from eventstore.message as last
join eventstore.message as said
  on said.user_id = last.user_id and said.conversation_id = last.conversation_id
    and said.position <= last.position and json_typeof(said.body) = 'object'
where last.user_id = $1 and last.id = $2
order by said.position desc
limit $3
"""


class AgentConversationSaved(
    Event, type="PydanticAIConversationSaved", stream_kind="conversation", starts=False
):
    """An agent's conversation was saved: the record that pydantic-ai keeps of it, as JSON."""

    record: dict[str, Any]


extensions = {"events": [AgentConversationSaved]}
"""For commands: `eventstore verify --extensions eventstore.integrations.pydantic_ai:extensions`."""


class AgentConversations(ConversationStore):
    """
    One user's conversations, as pydantic-ai stores them; `scope` divides them further.

    A deleted conversation can be restored, and its entries stay, for forks; `store.erase` removes
    them. A save whose reply was lost may have been written: load before saving again.

    :param user: of a store that was connected with `events=[AgentConversationSaved]`.
    """

    def __init__(self, user: AsyncUser) -> None:
        self._user = user

    async def read_record(self, conversation_id: str) -> Record | None:
        """Return what was saved last; None if nothing was, or the conversation was deleted."""
        return (await self._newest(conversation_id))[1]

    async def read_records(
        self, *, scope: str | None = None, limit: int | None = None
    ) -> list[Record]:
        """Return the records, last saved first; one query, which with a scope reads all of them."""
        rows = await self._rows(_ALL, limit if scope is None else None)
        records = [_SAVED_RECORD.validate_json(payload)["record"] for _, _, payload in rows]
        return [record for record in records if scope in {None, record.scope}][:limit]

    async def write_record(
        self, record: Record, *, new_entries: Sequence[Entry] = (), expected_revision: str | None
    ) -> None:
        """
        Append up to 998 entries and the record, all or nothing; ids of entries are UUIDs.

        :raises ConversationConflict: another revision is stored, or the head is no entry.
        :raises StreamClosed: the conversation was erased.
        """
        key, head = record.conversation_id, record.head_id
        known = {None, *(entry.id for entry in new_entries)}
        if head not in known and not await self._rows(_SAID, parse_uuid(head or ""), 1):
            raise ConversationConflict(key)
        saved = AgentConversationSaved(**_SAVED_RECORD.dump_python({"record": record}, mode="json"))
        await self._append(key, expected_revision, [*map(_posted, new_entries), (uuid7(), saved)])

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete the conversation, unless another revision is stored: `ConversationConflict`."""
        await self._append(conversation_id, expected_revision, [(uuid7(), ConversationDeleted())])

    async def read_entry(self, entry_id: str) -> Entry:
        """Return one entry; LookupError if this user has none with this id, or it was erased."""
        return (await self.read_history(entry_id, limit=1))[0]

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[Entry]:
        """Return the entries up to `head_id`; one query, and one for each branch on the way."""
        entries: list[Entry] = []
        said: dict[str, Any] = {}
        while head_id is not None and (limit is None or len(entries) < limit):
            if head_id not in said:
                left = limit and limit - len(entries)
                said = dict(await self._rows(_SAID, parse_uuid(head_id), left))
            entries.append(_entry(head_id, said[head_id]))
            head_id = entries[-1].parent_id
        return entries[::-1]

    async def _rows(self, sql: str, *given: object) -> Any:
        # A session of SQLAlchemy's would take four round trips for a query, and a plan takes one.
        context, user_id = self._user._plans.context, self._user.user_id  # noqa: SLF001 - see above

        def select() -> Plan[Any]:
            (rows,) = yield Batch(user_scope(user_id), (Statement(sql, (user_id, *given)),))
            return rows

        return await self._user._driver.run(context.retrying(select))  # noqa: SLF001 - see above

    async def _newest(self, key: str) -> tuple[ExpectedVersion, Record | None, Event | None]:
        """Return the version, what was saved last, and the event that must come before others."""
        rows = await self._rows(_ONE, resolve_conversation(self._user.user_id, key))
        if not rows:
            return Expected.NEW, None, start(key, None)
        ((version, closed, payload),) = rows
        if closed:
            return version, None, ConversationRestarted()
        return version, payload and _SAVED_RECORD.validate_json(payload)["record"], None

    async def _append(
        self, key: str, expected_revision: str | None, said: list[tuple[UUID, Event]]
    ) -> None:
        version, stored, first = await self._newest(key)
        if expected_revision != (stored and stored.revision):
            raise ConversationConflict(key)
        stream_id = resolve_conversation(self._user.user_id, key)
        events = [
            NewEvent(stream_id=stream_id, event_id=event_id, data=data, expected=version)
            for event_id, data in ([] if first is None else [(uuid7(), first)]) + said
        ]
        try:
            await self._user.append(events)
        except (WrongVersion, StreamClosed) as error:
            # What held no record and is closed was erased, and refuses the next attempt too.
            if isinstance(error, StreamClosed) and stored is None:
                raise
            raise ConversationConflict(key) from error


def _posted(entry: Entry) -> tuple[UUID, Event]:
    (message,) = json.loads(ModelMessagesTypeAdapter.dump_json([entry.message]))
    role = "user" if entry.message.kind == "request" else "assistant"
    # The parts are the content of the item, because that is what is shown and searched.
    body = {"role": role, "content": message.pop("parts"), "pydantic_ai": message}
    return UUID(entry.id), MessagePosted(sender=role, body={**body, "parent_id": entry.parent_id})


def _entry(entry_id: str, body: str) -> Entry:
    item = json.loads(body)
    message = {"parts": item["content"], **item["pydantic_ai"]}
    # As JSON, where text stands for bytes.
    (read,) = ModelMessagesTypeAdapter.validate_json(json.dumps([message]))
    return Entry(id=entry_id, parent_id=item["parent_id"], message=read)
