"""
The model of `test_state_machine`: the tasks and conversations of one user after one event.

The number of an event is its position, so the list of a user's states is indexed by position.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from eventstore import NotFound, StreamClosed
from eventstore.events.conversations import REWOUND
from projections.models.message import MessageView

__all__ = [
    "Call",
    "Chat",
    "Message",
    "State",
    "Todo",
    "expected_history",
    "history_values",
    "read_digests",
]


@dataclass(frozen=True)
class Call:
    """A tool call; `reference` is the view or handle that the store returned, or None."""

    reference: Any
    arguments: str
    status: str = "pending"
    result: Any = None


@dataclass(frozen=True)
class Message:
    sender: str
    content: Any
    calls: tuple[Call, ...] = ()
    retracted: bool = False

    def left_behind(self) -> Message:
        """Return the message as a rewind leaves it: hidden, its pending calls abandoned."""
        calls = tuple(
            replace(one, status="abandoned", result=REWOUND) if one.status == "pending" else one
            for one in self.calls
        )
        return replace(self, calls=calls, retracted=True)


@dataclass(frozen=True)
class Chat:
    title: str | None
    status: str = "active"
    messages: dict[UUID, Message] = field(default_factory=dict)

    def rewound(self, remaining: int) -> Chat:
        """Return the conversation with so many of its messages, hidden ones among them."""
        messages = {
            key: one if number < remaining else one.left_behind()
            for number, (key, one) in enumerate(self.messages.items())
        }
        return replace(self, messages=messages)

    def visible_messages(self) -> dict[UUID, Message]:
        return {key: one for key, one in self.messages.items() if not one.retracted}


class Todo(NamedTuple):
    title: str
    description: str | None = None
    completed: bool = False
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """
    Everything that one user has, in the order of creation; a deleted task is None.

    `deleted` has what deleted tasks were, `order` all tasks in the user's own order, and `fresh`
    those that the transaction under way creates and has not moved.
    """

    tasks: dict[UUID, Todo | None] = field(default_factory=dict)
    deleted: dict[UUID, Todo] = field(default_factory=dict)
    order: tuple[UUID, ...] = ()
    fresh: frozenset[UUID] = frozenset()
    chats: dict[UUID, Chat] = field(default_factory=dict)
    versions: dict[UUID, int] = field(default_factory=dict)

    def with_task(self, key: UUID, now: Todo | None) -> State:
        """Return the state after an event of a task."""
        deleted, before = dict(self.deleted), self.tasks.get(key)
        if now is None and before is not None:
            deleted[key] = before
        order = self.order if key in self.tasks else (*self.order, key)
        tasks = {**self.tasks, key: now}
        return replace(self._next(key), tasks=tasks, deleted=deleted, order=order)

    def with_restored(self, key: UUID) -> State:
        """Return the state after a deleted task was restored."""
        deleted = {one: todo for one, todo in self.deleted.items() if one != key}
        return replace(self.with_task(key, self.deleted[key]), deleted=deleted)

    def with_moved(self, key: UUID, anchor: UUID, *, after: bool) -> State:
        """Return the state after a task was moved next to another one."""
        order = [one for one in self.order if one != key]
        order.insert(order.index(anchor) + after, key)
        # A task that was moved has a place, beside which another one can go at once.
        return replace(self._next(key), order=tuple(order), fresh=self.fresh - {key})

    def with_chat(self, key: UUID, now: Chat) -> State:
        """Return the state after an event of a conversation."""
        return replace(self._next(key), chats={**self.chats, key: now})

    def with_message(self, chat: UUID, message: UUID, now: Message) -> State:
        """Return the state after an event of a message."""
        before = self.chats[chat]
        return self.with_chat(chat, replace(before, messages={**before.messages, message: now}))

    def existing_chat(self, chat: UUID) -> Chat:
        """
        Return a conversation that commands can change.

        :raises NotFound: there is no such conversation, or it is deleted.
        """
        found = self.chats.get(chat)
        if found is None or found.status == "deleted":
            raise NotFound("conversation", chat)
        return found

    def open_chat(self, chat: UUID) -> Chat:
        """
        Return a conversation that accepts messages.

        :raises StreamClosed: the conversation is deleted.
        :raises NotFound: there is no such conversation.
        """
        if chat in self.chats and self.chats[chat].status == "deleted":
            raise StreamClosed(chat, self.versions[chat])
        return self.existing_chat(chat)

    def pending(self) -> list[tuple[UUID, UUID, int]]:
        """Return the conversation, message and index of each call that may still end."""
        return [
            (chat_id, message_id, index)
            for chat_id, chat in self.chats.items()
            for message_id, message in chat.messages.items()
            for index, call in enumerate(message.calls)
            if call.status == "pending" and call.reference is not None
        ]

    def rows(self) -> int:
        """Return the number of read-model rows that the state requires."""
        messages = [one for chat in self.chats.values() for one in chat.messages.values()]
        calls = sum(len(message.calls) for message in messages)
        return len(self.tasks) + len(self.chats) + len(messages) + calls

    def _next(self, stream: UUID) -> State:
        return replace(self, versions={**self.versions, stream: self.versions.get(stream, 0) + 1})


def history_values(history: list[MessageView]) -> list[Any]:
    """Return the values of a history that the model knows: no positions and no timestamps."""
    return [
        (
            one.id,
            one.sender,
            one.content,
            [(call.arguments, call.status, call.output, call.error) for call in one.tool_calls],
        )
        for one in history
    ]


def expected_history(chat: Chat) -> list[Any]:
    """Return the values that the history of a conversation must have."""
    return [
        (
            key,
            message.sender,
            message.content,
            [
                (
                    call.arguments,
                    call.status,
                    call.result if call.status == "succeeded" else None,
                    call.result if call.status in {"failed", "abandoned"} else None,
                )
                for call in message.calls
            ],
        )
        for key, message in chat.visible_messages().items()
    ]


_DIGESTS = " union all ".join(
    f"""
    select user_id, '{table}', md5(string_agg(t::text, '|' order by t::text))
    from eventstore.{table} as t group by user_id
    """
    for table in ("user_log", "stream", "event", "task", "conversation", "message", "tool_call")
)


def read_digests(admin: psycopg.Connection) -> dict[str, set[tuple[str, str]]]:
    """Return, for every user, a digest of that user's rows in each table."""
    found: dict[str, set[tuple[str, str]]] = {}
    for user_id, table, digest in admin.execute(_DIGESTS):
        found.setdefault(user_id, set()).add((table, digest))
    return found
