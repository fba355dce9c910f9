"""
The model of `test_state_machine`: what one user has after one event.

The list of a user's states is therefore indexed by position.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from eventstore import NotFound, StreamClosed
from projections.models.message import MessageView

__all__ = ["Call", "Chat", "Said", "State", "Todo", "read_digests", "said_in", "told"]


@dataclass(frozen=True)
class Call:
    """A tool call; `reference` is what the store gave for it, None if it gave none."""

    reference: Any
    arguments: str
    status: str = "pending"
    result: Any = None


@dataclass(frozen=True)
class Said:
    sender: str
    content: Any
    calls: tuple[Call, ...] = ()
    retracted: bool = False


@dataclass(frozen=True)
class Chat:
    title: str | None
    status: str = "active"
    said: dict[UUID, Said] = field(default_factory=dict)

    def standing(self) -> dict[UUID, Said]:
        return {key: one for key, one in self.said.items() if not one.retracted}


class Todo(NamedTuple):
    title: str
    description: str | None = None
    completed: bool = False


@dataclass(frozen=True)
class State:
    """All that one user has; a deleted task is None. In the order of creation."""

    tasks: dict[UUID, Todo | None] = field(default_factory=dict)
    chats: dict[UUID, Chat] = field(default_factory=dict)
    versions: dict[UUID, int] = field(default_factory=dict)

    def task(self, key: UUID, now: Todo | None) -> State:
        """Return the state after an event of a task."""
        return replace(self._next(key), tasks={**self.tasks, key: now})

    def chat(self, key: UUID, now: Chat) -> State:
        """Return the state after an event of a conversation."""
        return replace(self._next(key), chats={**self.chats, key: now})

    def said(self, chat: UUID, message: UUID, now: Said) -> State:
        """Return the state after an event of a message."""
        before = self.chats[chat]
        return self.chat(chat, replace(before, said={**before.said, message: now}))

    def standing(self, chat: UUID) -> Chat:
        found = self.chats.get(chat)
        if found is None or found.status == "deleted":
            raise NotFound("conversation", chat)
        return found

    def taking(self, chat: UUID) -> Chat:
        """Return a conversation that takes messages; a deleted one is closed, not absent."""
        if chat in self.chats and self.chats[chat].status == "deleted":
            raise StreamClosed(chat, self.versions[chat])
        return self.standing(chat)

    def pending(self) -> list[tuple[UUID, UUID, int]]:
        """Return where the calls stand that may still end."""
        return [
            (chat_id, message_id, index)
            for chat_id, chat in self.chats.items()
            for message_id, said in chat.said.items()
            for index, call in enumerate(said.calls)
            if call.status == "pending" and call.reference is not None
        ]

    def rows(self) -> int:
        """Return how many read-model rows there must be."""
        messages = sum(len(chat.said) for chat in self.chats.values())
        return sum(map(bool, self.tasks.values())) + len(self.chats) + messages

    def _next(self, stream: UUID) -> State:
        return replace(self, versions={**self.versions, stream: self.versions.get(stream, 0) + 1})


def told(history: list[MessageView]) -> list[Any]:
    """Return what a history says, without positions and times."""
    return [
        (
            one.id,
            one.sender,
            one.content,
            [(call.arguments, call.status, call.output, call.error) for call in one.tool_calls],
        )
        for one in history
    ]


def said_in(chat: Chat) -> list[Any]:
    """Return what the history of a conversation must say."""
    return [
        (
            key,
            said.sender,
            said.content,
            [
                (
                    call.arguments,
                    call.status,
                    call.result if call.status == "succeeded" else None,
                    call.result if call.status == "failed" else None,
                )
                for call in said.calls
            ],
        )
        for key, said in chat.standing().items()
    ]


_DIGESTS = " union all ".join(
    f"""
    select user_id, '{table}', md5(string_agg(t::text, '|' order by t::text))
    from eventstore.{table} as t group by user_id
    """
    for table in ("user_log", "stream", "event", "task", "conversation", "message")
)


def read_digests(admin: psycopg.Connection) -> dict[str, set[tuple[str, str]]]:
    """Return a digest of every table's rows of every user."""
    found: dict[str, set[tuple[str, str]]] = {}
    for user_id, table, digest in admin.execute(_DIGESTS):
        found.setdefault(user_id, set()).add((table, digest))
    return found
