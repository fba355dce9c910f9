"""The vocabulary: what an event accepts, how it is stored for good, and how it is read again."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from eventstore import (
    ConfigurationError,
    ConversationDeleted,
    ConversationStarted,
    Event,
    EventRegistry,
    InvalidInput,
    MessagePosted,
    NotStorable,
    TaskCreated,
    TaskDeleted,
    TaskUpdated,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSucceeded,
    UnknownEventType,
    UnreadableEvent,
)
from eventstore.events.event import make_event
from eventstore.events.fields import check_user_id
from eventstore.events.json_codec import dumps, loads
from eventstore.events.registry import BUILT_IN_EVENTS

SAMPLES = Path(__file__).parent / "samples"
MESSAGE = UUID(int=1)
REPLY = UUID(int=2)


# The stored format. A sample is never edited: a new shape is a new schema version and a new file.


@pytest.mark.parametrize("kind", BUILT_IN_EVENTS, ids=lambda kind: kind.type)
def test_every_built_in_event_has_a_sample_of_every_schema_version(kind: type[Event]) -> None:
    wanted = [f"{kind.type}.v{version + 1}.json" for version in range(kind.schema_version)]

    assert [name for name in wanted if not (SAMPLES / name).exists()] == []


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_what_an_earlier_release_stored_is_read_and_written_the_same(sample: Path) -> None:
    type_name, version = sample.stem.split(".v")
    text = sample.read_text(encoding="utf-8").removesuffix("\n")

    event = EventRegistry().read(type_name, int(version), loads(text))

    assert event.type == type_name
    if event.schema_version == int(version):
        assert dumps(event.to_payload()) == text


def test_a_field_that_was_not_set_is_not_stored_and_one_set_to_none_is() -> None:
    kept, removed = TaskUpdated(title="Buy milk"), TaskUpdated(description=None)

    assert dumps(kept.to_payload()) == '{"title":"Buy milk"}'
    assert dumps(removed.to_payload()) == '{"description":null}'
    assert TaskUpdated.from_payload({"description": None}).model_fields_set == {"description"}


def test_an_output_of_null_is_told_from_an_output_that_stands_in_the_reply() -> None:
    fields: dict[str, Any] = {"call_id": "call_1", "message_id": MESSAGE, "reply_id": REPLY}

    null = ToolCallSucceeded(**fields, reply={"content": "null"}, output=None)
    text = ToolCallSucceeded(**fields, reply={"content": "Done."})

    assert ToolCallSucceeded.from_payload(null.model_dump(exclude_unset=True)).result is None
    assert ToolCallSucceeded.from_payload(text.model_dump(exclude_unset=True)).result == "Done."


def test_an_event_cannot_be_changed_and_takes_no_field_it_does_not_know() -> None:
    event = TaskCreated(title="Buy milk")

    with pytest.raises(ValidationError, match="frozen"):
        event.title = "Buy oat milk"  # type: ignore[misc]  # that is the point
    with pytest.raises(InvalidInput, match="priority"):
        make_event(TaskCreated, title="Buy milk", priority=1)


def test_only_deletion_closes_a_stream() -> None:
    closing = [kind for kind in BUILT_IN_EVENTS if kind.closes]

    assert set(closing) == {TaskDeleted, ConversationDeleted}


def test_a_failed_call_must_say_its_error() -> None:
    fields = {"call_id": "call_1", "message_id": MESSAGE, "reply_id": REPLY, "reply": {}}

    with pytest.raises(InvalidInput) as error:
        make_event(ToolCallFailed, **fields)

    assert error.value.path == "error"


# Limits.


@pytest.mark.parametrize(
    ("kind", "fields", "name", "limit"),
    [
        (TaskCreated, {}, "title", 500),
        (TaskCreated, {"title": "Buy milk"}, "description", 20_000),
        (ConversationStarted, {}, "key", 255),
        (MessagePosted, {"message_id": MESSAGE, "body": {}}, "sender", 255),
    ],
    ids=["title", "description", "key", "sender"],
)
class TestALabel:
    def test_may_be_as_long_as_its_limit_and_no_longer(
        self, kind: type[Event], fields: dict[str, Any], name: str, limit: int
    ) -> None:
        longest = make_event(kind, **fields, **{name: "ä" * limit})

        assert getattr(longest, name) == "ä" * limit
        with pytest.raises(
            InvalidInput, match=f"{limit + 1} characters, the limit is {limit}"
        ) as e:
            make_event(kind, **fields, **{name: "ä" * (limit + 1)})
        assert e.value.path == name

    @pytest.mark.parametrize(("text", "what"), [("a\0", "a NUL"), ("a\ud800", "a lone surrogate")])
    def test_with_what_postgresql_text_cannot_hold_is_refused_by_name(
        self, kind: type[Event], fields: dict[str, Any], name: str, limit: int, text: str, what: str
    ) -> None:
        with pytest.raises(NotStorable, match=f"has {what}") as error:
            make_event(kind, **fields, **{name: text})

        assert error.value.path == name

    def test_that_is_not_text_is_refused_by_name(
        self, kind: type[Event], fields: dict[str, Any], name: str, limit: int
    ) -> None:
        with pytest.raises(InvalidInput, match="expected text, got int") as error:
            make_event(kind, **fields, **{name: 7})

        assert error.value.path == name


@pytest.mark.parametrize("title", ["", " ", "\t\n", "\u2003"])
def test_a_title_needs_a_visible_character_and_a_description_does_not(title: str) -> None:
    with pytest.raises(InvalidInput, match="is empty") as error:
        make_event(TaskCreated, title=title)

    assert error.value.path == "title"
    assert make_event(TaskCreated, title="Buy milk", description=title).description == title


@pytest.mark.parametrize("user_id", ["a", "auth0|507f1f77", "ü" * 255, " a ", "\U0010ffff"])
def test_a_user_id_is_taken_as_it_is(user_id: str) -> None:
    assert check_user_id(user_id) == user_id


@pytest.mark.parametrize("user_id", ["", " ", "a" * 256, "a\0", "\udfff", None, 7, b"alice"])
def test_a_user_id_that_cannot_be_kept_is_refused(user_id: object) -> None:
    with pytest.raises(InvalidInput) as error:
        check_user_id(user_id)

    assert error.value.path == "user_id"


def test_content_arguments_and_names_of_a_model_are_taken_with_nul_and_lone_surrogates() -> None:
    odd = "\0 \ud800 \udfff"

    posted = make_event(MessagePosted, message_id=MESSAGE, sender="user", body={odd: [odd]})
    called = make_event(ToolCallRequested, call_id=odd, message_id=MESSAGE, name=odd, arguments=odd)

    assert MessagePosted.from_payload(loads(dumps(posted.to_payload()))) == posted
    assert ToolCallRequested.from_payload(loads(dumps(called.to_payload()))) == called


def test_what_json_cannot_hold_is_refused_by_its_place_in_the_body() -> None:
    body = {"content": [{"text": "a"}, {"price": float("nan")}]}

    with pytest.raises(NotStorable) as error:
        make_event(MessagePosted, message_id=MESSAGE, sender="user", body=body)

    assert error.value.path == "body.content[1].price"


@pytest.mark.parametrize("body", ["text", ["a"], None, 7])
def test_a_body_that_is_not_an_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidInput, match="expected a JSON object") as error:
        make_event(MessagePosted, message_id=MESSAGE, sender="user", body=body)

    assert error.value.path == "body"


# The registry.


class TaskSnoozed(
    Event,
    type="TaskSnoozed",
    stream_kind="task",
    schema_version=3,
    upcasts={
        1: lambda old: {"day": old["date"]},
        2: lambda old: {"until": f"{old['day']}T00:00Z"},
    },
):
    until: datetime


def test_an_event_of_ones_own_is_read_beside_the_built_in_ones() -> None:
    registry = EventRegistry(TaskSnoozed)

    event = registry.read("TaskSnoozed", 3, {"until": "2026-01-02T00:00:00+00:00"})

    assert isinstance(event, TaskSnoozed)
    assert registry.types() == sorted(["TaskSnoozed", *(kind.type for kind in BUILT_IN_EVENTS)])


def test_two_classes_cannot_have_one_stored_name() -> None:
    class Other(Event, type="TaskCreated", stream_kind="task"):
        """A class of another module under a name that is taken."""

    registry = EventRegistry(TaskSnoozed)

    with pytest.raises(ConfigurationError, match="event type TaskCreated is already TaskCreated"):
        registry.register(Other)
    assert registry.register(TaskSnoozed) is TaskSnoozed
    assert isinstance(registry.read("TaskCreated", 1, {"title": "Buy milk"}), TaskCreated)


def test_an_event_must_declare_a_storable_name_and_kind_of_stream() -> None:
    class Nameless(Event, stream_kind="task"):
        """No stored name."""

    class Homeless(Event, type="Homeless"):
        """No kind of stream."""

    class Endless(Event, type="x" * 101, stream_kind="task"):
        """A stored name that its column does not take."""

    class Unkind(Event, type="Unkind", stream_kind="A Task"):
        """A kind that its column does not take."""

    for kind in (Nameless, Homeless, Endless, Unkind):
        with pytest.raises(ConfigurationError, match=kind.__name__):
            EventRegistry(kind)


def test_an_unknown_type_is_an_error_with_its_name_and_position() -> None:
    with pytest.raises(UnknownEventType, match=r"TaskPainted .* at position 7") as error:
        EventRegistry().read("TaskPainted", 1, {}, 7)

    assert (error.value.type, error.value.schema_version, error.value.position) == (
        "TaskPainted", 1, 7,
    )  # fmt: skip


def test_a_schema_version_of_a_newer_release_is_an_error_and_not_guessed_at() -> None:
    with pytest.raises(UnknownEventType, match=r"TaskCreated \(schema version 2\) at position 7"):
        EventRegistry().read("TaskCreated", 2, {"title": "Buy milk"}, 7)


def test_an_old_payload_is_upcast_step_by_step_to_the_class_of_today() -> None:
    registry = EventRegistry(TaskSnoozed)

    events = [
        registry.read("TaskSnoozed", 1, {"date": "2026-01-02"}),
        registry.read("TaskSnoozed", 2, {"day": "2026-01-02"}),
        registry.read("TaskSnoozed", 3, {"until": "2026-01-02T00:00Z"}),
    ]

    assert events[0] == events[1] == events[2]


def test_a_class_that_lacks_an_upcast_from_an_older_version_is_not_registered() -> None:
    class TaskWaiting(
        Event,
        type="TaskWaiting",
        stream_kind="task",
        schema_version=3,
        upcasts={1: lambda old: old},
    ):
        """A task waits."""

    with pytest.raises(ConfigurationError, match="no upcast from version 2"):
        EventRegistry(TaskWaiting)


def test_a_schema_version_below_one_is_an_error_and_not_guessed_at() -> None:
    with pytest.raises(UnknownEventType, match=r"schema version 0\) at position 7"):
        EventRegistry().read("TaskCreated", 0, {"title": "Buy milk"}, 7)


def test_a_payload_that_does_not_fit_is_named_by_position_and_never_quoted() -> None:
    with pytest.raises(UnreadableEvent, match="TaskCreated at position 7") as error:
        EventRegistry().read("TaskCreated", 1, {"title": 7, "secret": "swordfish"}, 7)

    assert (error.value.type, error.value.position) == ("TaskCreated", 7)
    assert "swordfish" not in str(error.value)
