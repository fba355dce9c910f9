"""Text of users, models and tools is stored as text and never executed as SQL."""

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
def user(shared_store: EventStore) -> User:
    return shared_store.user(f"writer{next(numbers)}")


type Field = Callable[[User, Any], object]


def start_chat(user: User) -> Any:
    return user.conversations.start(key="chat").id


def end_call(user: User, value: Any, field: str) -> Any:
    call = user.tool_calls.request("chat", name="f", arguments="{}")
    if field == "output":
        user.tool_calls.succeed(call, output=value)
    else:
        user.tool_calls.fail(call, error=value)
    return getattr(user.history("chat")[-2].tool_calls[0], field)


def describe_task(user: User, value: Any) -> Any:
    return user.tasks.create("x", description=value).description


LABELS: dict[str, Field] = {
    "title": lambda user, value: user.tasks.create(value).title,
    "title of a conversation": lambda user, value: user.conversations.start(title=value).title,
    "title that is changed": lambda user, value: user.conversations.rename("chat", value).title,
    "description": describe_task,
    "key": lambda user, value: user.conversations.start(key=value).key,
    "sender": lambda user, value: user.messages.post("chat", sender=value).sender,
    "idempotency_key": lambda user, value: (
        user.keyed(value).tasks.create("x").id == user.keyed(value).tasks.create("x").id and value
    ),
    "name": lambda user, value: user.tool_calls.request("chat", name=value, arguments="").name,
    "call_id": lambda user, value: (
        user.tool_calls.find(
            "chat", user.tool_calls.request("chat", name="f", arguments="", call_id=value).call_id
        ).call_id
    ),
}
PAYLOADS: dict[str, Field] = {
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
    "output": lambda user, value: end_call(user, {value: value}, "output")[value],
    "error": lambda user, value: end_call(user, [value], "error")[0],
    "metadata": lambda user, value: (
        user.annotated(metadata={value: value}).tasks.create("x")
        and user.events(backward=True, limit=1)[0].metadata[value]
    ),
}
ERASURE_FIELDS = ("ordered_by", "reason")
UNSTORABLE = {"NUL": "a\0b", "a lone surrogate": "a\ud800b"}


@pytest.fixture
def victim(shared_store: EventStore) -> Iterator[User]:
    """Somebody whose data is the same afterwards."""
    victim = shared_store.user(f"victim{next(numbers)}")
    victim.tasks.create("private")
    before = victim.events()
    yield victim
    assert victim.events() == before
    assert shared_store.verify(victim.user_id).ok


@pytest.mark.parametrize("field", LABELS | PAYLOADS)
def test_sql_in_any_text_field_is_stored_as_text(
    shared_store: EventStore, user: User, victim: User, field: str
) -> None:
    start_chat(user)
    for value in SQL:
        assert (LABELS | PAYLOADS)[field](user, value) == value

    assert shared_store.verify(user.user_id).ok
    assert victim.user_id in shared_store.users()


@pytest.mark.parametrize("field", LABELS)
@pytest.mark.parametrize("case", UNSTORABLE)
def test_unstorable_text_in_a_label_is_refused_with_its_path_and_nothing_is_written(
    user: User, field: str, case: str
) -> None:
    start_chat(user)
    user.keyed("first").tasks.create("x")  # the log has a task as well
    before = user.events()

    with pytest.raises(NotStorable) as error:
        LABELS[field](user, UNSTORABLE[case])

    assert error.value.path.rpartition(".")[2].partition(" ")[0] in field
    assert user.events() == before


@pytest.mark.parametrize("field", PAYLOADS)
def test_text_of_a_model_or_tool_is_stored_whatever_it_contains(user: User, field: str) -> None:
    start_chat(user)
    for value in (*UNSTORABLE.values(), "\ufeff", "\u202e", "\x7f"):
        assert PAYLOADS[field](user, value) == value


@pytest.mark.parametrize("field", ERASURE_FIELDS)
def test_sql_in_the_fields_of_an_erasure_is_stored_as_text(
    shared_store: EventStore, victim: User, field: str
) -> None:
    for value in SQL:
        user = shared_store.user(f"erased{next(numbers)}")
        user.tasks.create("x")
        arguments: dict[str, Any] = {"ordered_by": "me", field: value}
        shared_store.erase(user.user_id, **arguments)
        (record,) = user.events(types=["ContentErased"])
        assert getattr(record.data, field) == value
    for value in UNSTORABLE.values():
        arguments = {"ordered_by": "me", field: value}
        with pytest.raises(NotStorable) as error:
            shared_store.erase(user.user_id, **arguments)
        assert error.value.path == field
