"""Invalid arguments are refused with their path before anything is written."""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import Field

from eventstore import (
    AsyncEventStore,
    ConfigurationError,
    ConversationStarted,
    Event,
    EventRegistry,
    EventStore,
    IdempotencyConflict,
    InvalidInput,
    NewEvent,
    NotFound,
    NotStorable,
    Settings,
    TaskCompleted,
    TaskCreated,
    TaskUpdated,
    ToolCallRequested,
    User,
    WrongVersion,
)
from eventstore.cli.options import parse_as_of
from eventstore.database.driver.async_driver import AsyncDriver
from eventstore.database.driver.sync_driver import Driver
from eventstore.database.settings import load_settings
from eventstore.events.event import make_event
from eventstore.events.json_codec import check_json, loads
from eventstore.schema.migrate import upgrade
from eventstore.store.units.decisions import HasEventId
from tests.support.server import Server


def test_one_append_does_not_mix_kinds_in_one_stream(alice: User) -> None:
    stream = uuid4()

    with pytest.raises(InvalidInput, match=r"events\[1\]\.stream_id: stream .* is a task"):
        alice.append(
            [
                NewEvent(stream_id=stream, data=TaskCreated(title="x")),
                NewEvent(stream_id=stream, data=ConversationStarted()),
            ]
        )

    assert alice.events() == []


@pytest.mark.parametrize(
    "expected", [True, 2**63, pytest.param(10**5_000, id="long"), -1, "newest", None]
)
def test_an_invalid_expected_version_is_refused(alice: User, expected: Any) -> None:
    with pytest.raises(InvalidInput, match=r"events\[0\]\.expected"):
        alice.append([NewEvent(stream_id=uuid4(), data=TaskCreated(title="x"), expected=expected)])


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": True},
        {"limit": 2**63},
        {"after": "1"},
        {"after": -1},
        {"after": True},
        {"types": "TaskCreated"},
    ],
)
def test_an_invalid_argument_of_a_page_is_refused(alice: User, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as error:
        alice.events(**arguments)

    assert error.value.path == next(iter(arguments))


def test_wrong_version_carries_the_expected_and_the_actual_version(alice: User) -> None:
    task = alice.tasks.create("Buy milk")

    with pytest.raises(WrongVersion) as error:
        alice.append(
            [NewEvent(stream_id=task.id, data=TaskUpdated(title="Buy oat milk"), expected=7)]
        )

    assert (error.value.expected, error.value.actual) == (7, 1)


def test_an_integer_too_long_for_python_to_parse_is_refused() -> None:
    with pytest.raises(NotStorable, match="4,300 digits"):
        check_json(10**5000, "content")


@pytest.mark.parametrize("text", ["1e99999999999999999999", "[" * 100_000 + "1.5"])
def test_json_with_a_huge_exponent_or_a_deep_nesting_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"exponent|deep|recursion"):
        loads(text)


def test_a_posted_decimal_equals_the_value_that_is_read_back(alice: User) -> None:
    chat = alice.conversations.start()

    message = alice.messages.post(
        chat.id, sender="user", content=[Decimal("0.33"), Decimal("1.10"), Decimal(5)]
    )

    assert alice.history(chat.id) == [message]
    assert message.content == [0.33, Decimal("1.10"), 5]


def test_an_append_returns_the_events_that_are_read_later(alice: User) -> None:
    event = NewEvent(stream_id=uuid4(), data=TaskCreated(title="x"), metadata={"at": (1, uuid4())})

    recorded = alice.append([event])

    assert recorded == alice.events()


def test_the_path_of_an_invalid_value_includes_its_indexes(alice: User) -> None:
    chat = alice.conversations.start()

    with pytest.raises(NotStorable, match=r"body\.content\[1\]\.x: nan"):
        alice.messages.post(chat.id, sender="user", content=[1, {"x": float("nan")}])


def test_inspect_shows_the_signature_of_a_method(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        shown = inspect.signature(store.user("alice").tasks.create)

    assert list(shown.parameters)[0] == "title"  # noqa: RUF015 - the first of several
    assert shown.return_annotation == "TaskView"


def test_threads_of_one_process_can_migrate_at_the_same_time(server: Server) -> None:
    url = server.direct(server.create_database("template0"))
    failed: list[BaseException] = []

    def migrate() -> None:
        try:
            upgrade(Settings(database_url=url))
        except BaseException as error:  # noqa: BLE001 - asserted below
            failed.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    server.drop_database(url)
    assert failed == []


class Stamped(Event, type="Stamped", stream_kind="task"):
    """An event with a generated field, which has to be stored."""

    mark: UUID = Field(default_factory=uuid4)


class Aliased(Event, type="Aliased", stream_kind="task"):
    """An event that is stored by the name of its field but read by its alias."""

    mark: int = Field(alias="Mark")


def test_a_generated_field_is_the_same_whenever_it_is_read(database_url: str) -> None:
    with EventStore.connect(database_url, events=[Stamped]) as store:
        alice = store.user("alice")

        (recorded,) = alice.append([NewEvent(stream_id=uuid4(), data=Stamped())])

        assert alice.events() == [recorded]
        assert alice.events()[0].data == recorded.data


def test_an_event_that_could_not_be_read_back_is_refused(database_url: str) -> None:
    with EventStore.connect(database_url, events=[Aliased]) as store:
        alice = store.user("alice")

        with pytest.raises(InvalidInput, match="would not be read back as it is"):
            alice.append([NewEvent(stream_id=uuid4(), data=Aliased(Mark=1))])

        assert alice.events() == []


@pytest.mark.parametrize("index", [-1, 1000])
def test_a_tool_call_with_an_index_outside_the_limits_is_refused(index: int) -> None:
    with pytest.raises(InvalidInput, match="index"):
        make_event(ToolCallRequested, call_id="c", name="f", arguments="{}", index=index)


def test_a_command_on_a_closed_store_raises_at_once(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")

    with pytest.raises(ConfigurationError, match="the store is closed"):
        alice.tasks.list()


@pytest.mark.parametrize(
    ("event", "path"),
    [
        (None, r"events\[0\]"),
        (TaskCreated(title="x"), r"events\[0\]"),
        (NewEvent(stream_id="x", data=TaskCreated(title="x")), r"events\[0\].stream_id"),  # type: ignore[arg-type]  # the mistake
        (NewEvent(stream_id=uuid4(), data="x"), r"events\[0\]"),  # type: ignore[arg-type]  # the mistake
        (
            NewEvent(stream_id=uuid4(), data=TaskCreated(title="x"), causation_id="x"),  # type: ignore[arg-type]  # the mistake
            r"events\[0\].causation_id",
        ),
        (
            NewEvent(stream_id=uuid4(), data=TaskCreated(title="x"), metadata="x"),  # type: ignore[arg-type]  # the mistake
            r"events\[0\].metadata",
        ),
    ],
)
def test_an_invalid_event_is_refused_with_its_path(alice: User, event: Any, path: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{path}: "):
        alice.append([event])

    assert alice.events() == []


def test_every_view_can_be_the_cause_of_a_command(alice: User) -> None:
    """A view stands for the event that made what it shows, also in an earlier state."""
    task = alice.tasks.create("a")
    chat = alice.conversations.start(key="chat")
    message = alice.messages.post(chat.id, sender="user", content="b")
    call = alice.tool_calls.request(chat.id, name="look", arguments="{}")
    alice.tasks.complete(task.id)
    alice.conversations.delete(chat.id)
    anew = alice.conversations.start(key="chat")
    causes: list[HasEventId] = [
        task,
        alice.tasks.get(task.id),
        chat,
        alice.conversations.get(anew.id),
        message,
        call,
    ]
    causes += [
        alice.tasks.list()[0],
        alice.tasks.get(task.id, as_of=1),
        *alice.conversations.list(),
    ]

    for number, cause in enumerate(causes):
        alice.tasks.create(str(number), caused_by=cause)

    events = alice.events()
    place = {one.event_id: one.position for one in events}
    caused = [place[one.causation_id] for one in events if one.causation_id is not None]
    assert caused[-len(causes) :] == [1, 1, 2, anew.position, 3, call.position, 1, 1, anew.position]
    assert alice.conversations.get(chat.id, as_of=3).event_id == chat.event_id


def test_a_cause_that_is_not_an_event_id_is_refused(alice: User) -> None:
    with pytest.raises(InvalidInput, match="caused_by: a str; give an event's id"):
        alice.tasks.create("x", caused_by="call_1")  # type: ignore[arg-type]  # the mistake


def test_text_that_is_not_a_valid_key_raises_not_found(alice: User) -> None:
    with pytest.raises(NotFound, match="conversation"):
        alice.history("\ud800")


def test_a_transaction_cannot_be_used_twice(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        transaction = store.user("alice").transaction()
        with transaction as tx:
            tx.tasks.create("once")

        with pytest.raises(ConfigurationError, match="is used once"), transaction as tx:
            tx.tasks.create("twice")

        assert [task.title for task in store.user("alice").tasks.list()] == ["once"]


@pytest.mark.parametrize("failure", [None, ValueError("in the block")])
def test_a_command_after_a_transaction_is_refused_because_nobody_would_write_it(
    alice: User, failure: ValueError | None
) -> None:
    task = alice.tasks.create("earlier")

    with suppress(ValueError), alice.transaction() as tx:
        tx.tasks.create("in the block")
        if failure is not None:
            raise failure

    for late in (
        lambda: tx.tasks.create("late"),
        lambda: tx.tasks.complete(task.id),
        lambda: tx.append(task.id, TaskCompleted()),
    ):
        with pytest.raises(ConfigurationError, match="the transaction has ended"):
            late()
    assert len(alice.tasks.list()) == (2 if failure is None else 1)


def test_annotations_of_a_wrong_type_are_refused_where_they_are_given(alice: User) -> None:
    wrong: list[dict[str, Any]] = [{"correlation_id": "trace-1"}, {"metadata": "x"}]
    for options in wrong:
        with pytest.raises(InvalidInput) as refused:
            alice.annotated(**options)
        assert refused.value.path == next(iter(options))


def test_what_is_no_anchor_is_refused_by_verify(store: EventStore) -> None:
    with pytest.raises(InvalidInput, match=r"anchors\[0\]: a str; give what read_anchor returns"):
        store.verify(anchors=["heads.jsonl"])  # type: ignore[list-item]  # the mistake


def test_another_outcome_of_a_call_is_refused_by_the_name_of_the_call(
    alice: User, chat: UUID
) -> None:
    call = alice.tool_calls.request(chat, name="add_task", arguments="{}")
    alice.tool_calls.succeed(call, output=1)

    with pytest.raises(IdempotencyConflict, match=f"the tool call {call.id} ended at position 4"):
        alice.tool_calls.fail(call, error="late")


@pytest.mark.parametrize("digits", ["9" * 20, "9" * 5000])
def test_a_position_with_too_many_digits_is_refused(digits: str) -> None:
    with pytest.raises(InvalidInput, match="--as-of"):
        parse_as_of(digits)


def test_a_url_beside_settings_is_refused_because_settings_have_one() -> None:
    with pytest.raises(ConfigurationError, match="database_url or settings"):
        EventStore.connect(
            "postgresql://a/todo", settings=Settings(database_url="postgresql://b/t")
        )


@pytest.mark.parametrize("projectors", [EventRegistry(), "task", 5])
def test_projectors_that_are_no_list_are_refused(projectors: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no list"):
        EventStore.connect("postgresql://elsewhere/todo", projectors=projectors)


@pytest.mark.parametrize("driver", [Driver, AsyncDriver])
def test_an_interrupt_while_the_pool_opens_closes_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch, driver: type[Any]
) -> None:
    pools: list[Any] = []
    if driver is AsyncDriver:

        async def open_async(self: Any) -> None:
            pools.append(self.pool)
            await self.pool.open()
            raise TooLong

        monkeypatch.setattr(driver, "open", open_async)
    else:

        def open_sync(self: Any) -> None:
            pools.append(self.pool)
            self.pool.open()
            raise TooLong

        monkeypatch.setattr(driver, "open", open_sync)

    async def connect_async() -> None:
        await AsyncEventStore.connect(database_url)

    with pytest.raises(TooLong):
        asyncio.run(connect_async()) if driver is AsyncDriver else EventStore.connect(database_url)

    assert [pool.closed for pool in pools] == [True]


def test_an_infinite_deadline_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="EVENTSTORE_DEADLINE_SECONDS"):
        load_settings(deadline_seconds=float("inf"))


def test_two_roles_with_the_same_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="the three roles need three names"):
        load_settings(application_role="todo", operator_role="todo")


@pytest.mark.parametrize("name", ["", "Todo", "to do", "todo;drop", "1st", "t" * 64])
def test_a_role_name_that_needs_quotes_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="EVENTSTORE_ERASER_ROLE"):
        load_settings(eraser_role=name)


class TooLong(BaseException):
    """What a signal handler may raise at any time."""


class OtherUUID(UUID):
    """A subclass of UUID, as some drivers return it."""


WRONG: dict[str, tuple[Any, str]] = {
    "a stream that is a number": (lambda store: store.user("a").events(stream_id=5), "stream"),
    "types that are a number": (lambda store: store.user("a").events(types=5), "types"),
    "a type that is a number": (lambda store: store.user("a").events(types=[1]), "types"),
    "a lone surrogate in a type": (lambda store: store.user("a").events(types=["\ud800"]), "types"),
    "heads after a number": (lambda store: store.heads(after=5), "after"),
    "heads after NUL": (lambda store: store.heads(after="\0"), "after"),
    "heads of text": (lambda store: store.heads("alice"), "users"),
    "a number for true": (lambda store: store.user("a").tasks.list(completed=1), "completed"),
    "an order that is a list": (lambda store: store.user("a").tasks.list(order=[]), "order"),
    "a body that is a number": (lambda store: store.user("a").messages.post("k", body=5), "body"),
    "calls that are text": (
        lambda store: store.user("a").messages.post("k", sender="s", tool_calls="x"),
        "tool_calls[0]",
    ),
    "a call that is None": (
        lambda store: store.user("a").tool_calls.succeed(None, output=1), "call",
    ),
    "a call that is a number": (lambda store: store.user("a").tool_calls.fail(5, error=1), "call"),
    "a timestamp before the first year of UTC": (
        lambda store: store.user("a").messages.post(
            "k", sender="s", content=[datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))]
        ),
        "content[0]",
    ),
    "a number for content": (
        lambda store: store.user("a").messages.post("k", sender="s", content=5), "content",
    ),
    "an object for content": (
        lambda store: store.user("a").messages.post("k", sender="s", content={}), "content",
    ),
    "a content that is too long": (
        lambda store: store.user("a").messages.post("k", sender="s", content="x" * 4_000_001),
        "content",
    ),
    "a sender that is not the body's role": (
        lambda store: store.user("a").messages.post(
            "k", sender="user", body={"role": "assistant", "content": "x"}
        ),
        "sender",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_value_of_the_wrong_type_is_refused_with_its_path(store: EventStore, wrong: str) -> None:
    store.user("a").conversations.start(key="k")
    call, path = WRONG[wrong]

    with pytest.raises(InvalidInput) as refused:
        call(store)

    assert refused.value.path.endswith(path)
    assert len(store.user("a").events()) == 1


def test_subclasses_of_uuid_are_accepted_as_ids(store: EventStore) -> None:
    task, chat = (OtherUUID(int=number) for number in (1, 2))
    alice = store.user("alice")
    alice.append(
        [
            NewEvent(stream_id=task, data=TaskCreated(title="x"), event_id=chat),
            NewEvent(stream_id=chat, data=ConversationStarted(), correlation_id=task),
        ]
    )
    alice.messages.post(chat, sender="user", content="x", caused_by=task)
    alice.tasks.complete(task)

    assert alice.tasks.get(task).completed
    assert len(alice.events(stream_id=chat)) == 2
    assert store.verify().ok


def test_the_message_of_not_found_is_short_and_can_be_encoded(alice: User) -> None:
    with pytest.raises(NotFound) as error:
        alice.tasks.get("\ud800" + "x" * 1_000_000)

    assert len(str(error.value).encode()) < 200


UUID_TEXT = "019aadc0-6d7f-7a51-a6c9-1a4de1f0abcd"
SPELLINGS = [
    UUID_TEXT,
    UUID_TEXT.upper(),
    f"{{{UUID_TEXT}}}",
    f"urn:uuid:{UUID_TEXT}",
    f"URN:UUID:{UUID_TEXT.upper()}",
    UUID_TEXT.replace("-", ""),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_uuid_is_one_in_whatever_spelling(alice: User, spelling: str) -> None:
    chat = alice.conversations.start(key=spelling)

    assert chat.id == UUID(UUID_TEXT)
    assert {alice.conversations.start(key=other).id for other in SPELLINGS} == {chat.id}
    alice.messages.post(spelling, sender="user", content="Hello")
    assert all(len(alice.history(other)) == 1 for other in SPELLINGS)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_task_is_found_by_its_id_in_whatever_spelling(alice: User, spelling: str) -> None:
    created = NewEvent(stream_id=UUID(UUID_TEXT), data=TaskCreated(title="Buy milk"))
    alice.append([created])

    assert alice.tasks.get(spelling).title == "Buy milk"


@pytest.mark.parametrize(
    "text",
    [
        UUID_TEXT[:-1],
        f"{{{UUID_TEXT}",
        f"{UUID_TEXT}}}",
        f"0x{UUID_TEXT.replace('-', '')[2:]}",
        UUID_TEXT.replace("-", "", 1),
        f" {UUID_TEXT}",
        "\u0661" * 32,
    ],
)
def test_a_text_that_only_resembles_a_uuid_is_a_key(alice: User, text: str) -> None:
    chat = alice.conversations.start(key=text)

    assert alice.conversations.get(text).id == chat.id
    with pytest.raises(NotFound):
        alice.tasks.get(text)
