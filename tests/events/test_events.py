"""Events: the values they accept, their stored format, and how they are read again."""

from __future__ import annotations

from collections.abc import Callable
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
REQUEST = UUID(int=1)


# The stored format. A sample is never edited: a new shape is a new schema version and a new file.


@pytest.mark.parametrize("kind", BUILT_IN_EVENTS, ids=lambda kind: kind.type)
def test_every_built_in_event_has_a_sample_of_every_schema_version(kind: type[Event]) -> None:
    expected = [f"{kind.type}.v{version + 1}.json" for version in range(kind.schema_version)]

    assert [name for name in expected if not (SAMPLES / name).exists()] == []


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_a_sample_of_an_earlier_release_is_read_and_written_unchanged(sample: Path) -> None:
    type_name, version = sample.stem.split(".v")
    text = sample.read_text(encoding="utf-8").removesuffix("\n")

    event = EventRegistry().read(type_name, int(version), loads(text))

    assert event.type == type_name
    if event.schema_version == int(version):
        assert dumps(event.to_payload()) == event.payload_text() == text


def test_an_unset_field_is_not_stored_but_a_field_set_to_none_is() -> None:
    renamed, cleared = TaskUpdated(title="Buy milk"), TaskUpdated(description=None)

    assert dumps(renamed.to_payload()) == '{"title":"Buy milk"}'
    assert dumps(cleared.to_payload()) == '{"description":null}'
    assert TaskUpdated.from_payload({"description": None}).model_fields_set == {"description"}


def test_an_output_of_null_is_distinguished_from_an_output_in_the_reply() -> None:
    fields: dict[str, Any] = {"call_id": "call_1", "request_event_id": REQUEST}

    null = ToolCallSucceeded(**fields, reply={"content": "null"}, output=None)
    text = ToolCallSucceeded(**fields, reply={"content": "Done."})

    assert ToolCallSucceeded.from_payload(loads(null.payload_text())).result is None
    assert ToolCallSucceeded.from_payload(loads(text.payload_text())).result == "Done."


def test_an_event_is_frozen_and_refuses_unknown_fields() -> None:
    event = TaskCreated(title="Buy milk")

    with pytest.raises(ValidationError, match="frozen"):
        event.title = "Buy oat milk"  # type: ignore[misc]  # events are frozen
    with pytest.raises(InvalidInput, match="priority"):
        make_event(TaskCreated, title="Buy milk", priority=1)


def test_only_deletion_closes_a_stream() -> None:
    closing = [kind for kind in BUILT_IN_EVENTS if kind.closes]

    assert set(closing) == {TaskDeleted, ConversationDeleted}


def test_a_failed_tool_call_needs_an_error() -> None:
    fields = {"call_id": "call_1", "request_event_id": REQUEST, "reply": {}}

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
        (MessagePosted, {"body": {}}, "sender", 255),
        (ToolCallRequested, {"call_id": "call_1", "arguments": ""}, "name", 255),
        (ToolCallRequested, {"name": "add_task", "arguments": ""}, "call_id", 255),
    ],
    ids=["title", "description", "key", "sender", "name", "call id"],
)
class TestATextField:
    def test_accepts_its_limit_of_characters_and_no_more(
        self, kind: type[Event], fields: dict[str, Any], name: str, limit: int
    ) -> None:
        longest = make_event(kind, **fields, **{name: "ä" * limit})

        assert getattr(longest, name) == "ä" * limit
        with pytest.raises(
            InvalidInput, match=f"{limit + 1} characters, the limit is {limit}"
        ) as e:
            make_event(kind, **fields, **{name: "ä" * (limit + 1)})
        assert e.value.path == name

    @pytest.mark.parametrize(("text", "fault"), [("a\0", "a NUL"), ("a\ud800", "a lone surrogate")])
    def test_refuses_characters_that_postgresql_text_cannot_hold(
        self,
        kind: type[Event],
        fields: dict[str, Any],
        name: str,
        limit: int,
        text: str,
        fault: str,
    ) -> None:
        with pytest.raises(NotStorable, match=f"has {fault}") as error:
            make_event(kind, **fields, **{name: text})

        assert error.value.path == name

    def test_refuses_a_value_that_is_not_text(
        self, kind: type[Event], fields: dict[str, Any], name: str, limit: int
    ) -> None:
        with pytest.raises(InvalidInput, match="expected text, got int") as error:
            make_event(kind, **fields, **{name: 7})

        assert error.value.path == name


INVISIBLE = [
    *[
        "",
        " ",
        "\t\n",
        "\u2003",
        "\u3000",
        "\u00a0",
        "\u00ad",
        "\u061c",
        "\u200b",
        "\u200e",
        "\u2060",
    ],
    *["\u115f", "\u1160", "\u3164", "\uffa0", "\u2800", "\u17b4", "\u180e", "\ufeff", "\ufff9"],
    *["\ufe0f", "\U000e0100", "\U000e0065", "\U0001d159", "\u2028", "\x1b", "\u202e \u200d\u3164"],
]


@pytest.mark.parametrize("title", INVISIBLE, ids=ascii)
def test_a_title_needs_a_visible_character_and_a_description_does_not(title: str) -> None:
    with pytest.raises(InvalidInput, match="has no visible character") as error:
        make_event(TaskCreated, title=title)

    assert error.value.path == "title"
    assert make_event(TaskCreated, title="Buy milk", description=title).description == title


@pytest.mark.parametrize(
    "title",
    [
        "\u200f\u05d7\u05dc\u05d1",
        "\u0cae\u0ccd\u200d",
        "\u2764\ufe0f",
        "\ue000",
        "\U0001fae9",
        "\u0301",
        ".",
    ],
    ids=ascii,
)
def test_a_title_of_any_script_with_one_visible_character_is_kept_as_it_is(title: str) -> None:
    assert make_event(TaskCreated, title=title).title == title


@pytest.mark.parametrize("user_id", ["a", "auth0|507f1f77", "ü" * 255, " a ", "\U0010ffff"])
def test_a_valid_user_id_is_accepted_unchanged(user_id: str) -> None:
    assert check_user_id(user_id) == user_id


@pytest.mark.parametrize("user_id", ["", " ", "a" * 256, "a\0", "\udfff", None, 7, b"alice"])
def test_a_user_id_that_cannot_be_stored_is_refused(user_id: object) -> None:
    with pytest.raises(InvalidInput) as error:
        check_user_id(user_id)

    assert error.value.path == "user_id"


def test_the_content_and_arguments_of_a_model_may_have_nul_and_lone_surrogates() -> None:
    odd = "\0 \ud800 \udfff"

    posted = make_event(MessagePosted, sender="user", body={odd: [odd]})
    called = make_event(ToolCallRequested, call_id="call_1", name="add_task", arguments=odd)

    assert MessagePosted.from_payload(loads(posted.payload_text())) == posted
    assert ToolCallRequested.from_payload(loads(called.payload_text())) == called


def test_a_body_that_json_cannot_hold_is_refused_and_the_path_named() -> None:
    body = {"content": [{"text": "a"}, {"price": float("nan")}]}

    with pytest.raises(NotStorable) as error:
        make_event(MessagePosted, sender="user", body=body)

    assert error.value.path == "body.content[1].price"


@pytest.mark.parametrize("make", [make_event, lambda kind, **fields: kind(**fields)])
def test_a_body_that_its_caller_changes_afterwards_stays_as_it_was_checked(
    make: Callable[..., Event],
) -> None:
    body: dict[str, Any] = {"content": [{"price": 1}]}

    posted = make(MessagePosted, sender="user", body=body)
    body["content"][0]["price"] = float("nan")
    body["more"] = object()

    assert posted.payload_text() == '{"sender":"user","body":{"content":[{"price":1}]}}'


@pytest.mark.parametrize("body", ["text", ["a"], None, 7])
def test_a_body_that_is_not_an_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidInput, match="expected a JSON object") as error:
        make_event(MessagePosted, sender="user", body=body)

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


def test_a_registered_event_is_read_beside_the_built_in_events() -> None:
    registry = EventRegistry(TaskSnoozed)

    event = registry.read("TaskSnoozed", 3, {"until": "2026-01-02T00:00:00+00:00"})

    assert isinstance(event, TaskSnoozed)
    assert registry.types() == sorted(["TaskSnoozed", *(kind.type for kind in BUILT_IN_EVENTS)])


def test_two_event_classes_cannot_share_a_stored_name() -> None:
    class Other(Event, type="TaskCreated", stream_kind="task"):
        """A class of another module with the same stored name."""

    registry = EventRegistry(TaskSnoozed)

    with pytest.raises(
        ConfigurationError,
        match=r"TaskCreated of tests.* is already eventstore\.events\.tasks\.TaskCreated",
    ):
        registry.register(Other)
    assert registry.register(TaskSnoozed) is TaskSnoozed
    assert isinstance(registry.read("TaskCreated", 1, {"title": "Buy milk"}), TaskCreated)


def test_an_event_must_declare_a_storable_name_and_kind_of_stream() -> None:
    class NoName(Event, stream_kind="task"):
        """No stored name."""

    class NoKind(Event, type="NoKind"):
        """No kind of stream."""

    class LongName(Event, type="x" * 101, stream_kind="task"):
        """A stored name that is too long for its column."""

    class BadKind(Event, type="BadKind", stream_kind="A Task"):
        """A kind of stream that its column refuses."""

    for kind in (NoName, NoKind, LongName, BadKind):
        with pytest.raises(ConfigurationError, match=kind.__name__):
            EventRegistry(kind)


def test_an_unknown_event_type_raises_an_error_with_its_position() -> None:
    with pytest.raises(UnknownEventType, match=r"TaskPainted .* at position 7") as error:
        EventRegistry().read("TaskPainted", 1, {}, 7)

    assert (error.value.type, error.value.schema_version, error.value.position) == (
        "TaskPainted", 1, 7,
    )  # fmt: skip


def test_a_schema_version_of_a_newer_release_is_refused() -> None:
    with pytest.raises(UnknownEventType, match=r"TaskCreated \(schema version 2\) at position 7"):
        EventRegistry().read("TaskCreated", 2, {"title": "Buy milk"}, 7)


def test_an_old_payload_is_upcast_step_by_step_to_the_current_class() -> None:
    registry = EventRegistry(TaskSnoozed)

    events = [
        registry.read("TaskSnoozed", 1, {"date": "2026-01-02"}),
        registry.read("TaskSnoozed", 2, {"day": "2026-01-02"}),
        registry.read("TaskSnoozed", 3, {"until": "2026-01-02T00:00Z"}),
    ]

    assert events[0] == events[1] == events[2]


def test_what_an_upcast_raises_is_named_and_the_payload_never_quoted() -> None:
    class TaskSecret(
        Event,
        type="TaskSecret",
        stream_kind="task",
        schema_version=2,
        upcasts={1: lambda old: old[old["secret"]]},
    ):
        secret: str

    with pytest.raises(UnreadableEvent, match="upcast from version 1 raised KeyError") as error:
        EventRegistry(TaskSecret).read("TaskSecret", 1, {"secret": "swordfish"}, 7)

    assert "swordfish" not in str(error.value)


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


def test_a_schema_version_below_one_is_refused() -> None:
    with pytest.raises(UnknownEventType, match=r"schema version 0\) at position 7"):
        EventRegistry().read("TaskCreated", 0, {"title": "Buy milk"}, 7)


def test_an_unreadable_payload_is_named_by_position_and_never_quoted() -> None:
    with pytest.raises(UnreadableEvent, match="TaskCreated at position 7") as error:
        EventRegistry().read("TaskCreated", 1, {"title": 7, "secret": "swordfish"}, 7)

    assert (error.value.type, error.value.position) == ("TaskCreated", 7)
    assert "swordfish" not in str(error.value)


def test_the_name_of_a_tool_is_limited() -> None:
    with pytest.raises(InvalidInput, match="name: 256 characters, the limit is 255"):
        make_event(ToolCallRequested, call_id="1", name="x" * 256, arguments="{}")
