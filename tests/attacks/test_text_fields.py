"""Text is text wherever a user, a model or a tool may put it: none of it is ever read as SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from eventstore import EventStore, NotStorable, User

SQL = (
    "'; drop table eventstore.event; --",
    "' or '1'='1",
    "$1); delete from eventstore.task; --",
    "%(user_id)s %s {user_id} :user_id $1 \\x00 \\' E'\\\\''",
    "\"; reset role; select set_config('eventstore.user_id', 'victim', false); --",
    "'||(select payload from eventstore.event limit 1)||'",
    "$$; rollback; $$ /* */ -- \n\r\t ; copy eventstore.event to program 'id'",
    "\u02bc or 1=1 \uff07; jose\u0301 \U0001f600",
)
numbers = count(1)


@pytest.fixture
def user(shared: EventStore) -> User:
    return shared.user(f"writer{next(numbers)}")


type Field = Callable[[User, Any], object]


def chat_of(user: User) -> Any:
    return user.conversations.start(key="chat").id


def ended(user: User, value: Any, how: str) -> Any:
    call = user.tool_calls.request("chat", name="f", arguments="{}")
    if how == "output":
        user.tool_calls.succeed(call, output=value)
    else:
        user.tool_calls.fail(call, error=value)
    return getattr(user.history("chat")[-2].tool_calls[0], how)


def described(user: User, value: Any) -> Any:
    return user.tasks.create("x", description=value).description


LABELS: dict[str, Field] = {
    "title": lambda user, value: user.tasks.create(value).title,
    "title of a conversation": lambda user, value: user.conversations.start(title=value).title,
    "title that is changed": lambda user, value: user.conversations.rename("chat", value).title,
    "description": described,
    "key": lambda user, value: user.conversations.start(key=value).key,
    "sender": lambda user, value: user.messages.post("chat", sender=value).sender,
    "idempotency_key": lambda user, value: (
        user.keyed(value).tasks.create("x").id == user.keyed(value).tasks.create("x").id and value
    ),
}
PAYLOADS: dict[str, Field] = {
    "name": lambda user, value: user.tool_calls.request("chat", name=value, arguments="").name,
    "call_id": lambda user, value: (
        user.tool_calls.find(
            "chat", user.tool_calls.request("chat", name="f", arguments="", call_id=value).id
        ).id
    ),
    "content": lambda user, value: (
        user.messages.post("chat", sender="user", content=value)
        and user.history("chat")[-1].content
    ),
    "body": lambda user, value: (
        user.messages.post("chat", body={"role": "user", value: value})
        and user.history("chat")[-1].body[value]
    ),
    "arguments": lambda user, value: (
        user.tool_calls.request("chat", name="f", arguments=value)
        and user.history("chat")[-1].tool_calls[0].arguments
    ),
    "output": lambda user, value: ended(user, {value: value}, "output")[value],
    "error": lambda user, value: ended(user, [value], "error")[0],
    "metadata": lambda user, value: (
        user.annotated(metadata={value: value}).tasks.create("x")
        and user.events(backward=True, limit=1)[0].metadata[value]
    ),
}
REASONS = ("ordered_by", "reason")
UNSTORABLE = {"NUL": "a\0b", "a lone surrogate": "a\ud800b"}


@pytest.fixture
def victim(shared: EventStore) -> Iterator[User]:
    """Somebody whose data is the same afterwards."""
    victim = shared.user(f"victim{next(numbers)}")
    victim.tasks.create("private")
    before = victim.events()
    yield victim
    assert victim.events() == before
    assert shared.verify(victim.user_id).ok


@pytest.mark.parametrize("field", LABELS | PAYLOADS)
def test_sql_is_text_in_every_text_field(
    shared: EventStore, user: User, victim: User, field: str
) -> None:
    chat_of(user)
    for value in SQL:
        assert (LABELS | PAYLOADS)[field](user, value) == value

    assert shared.verify(user.user_id).ok
    assert victim.user_id in shared.users()


@pytest.mark.parametrize("field", LABELS)
@pytest.mark.parametrize("why", UNSTORABLE)
def test_what_a_label_cannot_hold_is_refused_by_its_place_and_nothing_is_written(
    user: User, field: str, why: str
) -> None:
    chat_of(user)
    user.keyed("first").tasks.create("x")  # for what is updated
    before = user.events()

    with pytest.raises(NotStorable) as error:
        LABELS[field](user, UNSTORABLE[why])

    assert error.value.path.rpartition(".")[2].partition(" ")[0] in field
    assert user.events() == before


@pytest.mark.parametrize("field", PAYLOADS)
def test_what_a_model_or_tool_said_is_kept_whatever_it_holds(user: User, field: str) -> None:
    chat_of(user)
    for value in (*UNSTORABLE.values(), "\ufeff", "\u202e", "\x7f"):
        assert PAYLOADS[field](user, value) == value


@pytest.mark.parametrize("field", REASONS)
def test_the_words_of_an_erasure_are_text_too(shared: EventStore, victim: User, field: str) -> None:
    for value in SQL:
        user = shared.user(f"erased{next(numbers)}")
        user.tasks.create("x")
        given = {"ordered_by": "me", field: value}
        shared.erase(user.user_id, **given)
        (record,) = user.events(types=["ContentErased"])
        assert getattr(record.data, field) == value
    for value in UNSTORABLE.values():
        with pytest.raises(NotStorable) as error:
            shared.erase(user.user_id, **{"ordered_by": "me", field: value})
        assert error.value.path == field
