"""A service's own read model is equal live, replayed and rebuilt, for random appends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import select

from eventstore import EventStore, NewEvent, RecordedEvent, User
from eventstore.log.ids import uuid7
from tests.support.own_read_model import Box, Boxed, box_event
from tests.support.properties import examples


@dataclass
class Row:
    """The expected row of a box, by the rules of `project_box` in plain Python."""

    n: int = 0
    note: str | None = None
    body: Any = None
    tags: list[str] | None = None
    stamp: tuple[int, int] = (0, 0)

    def apply(self, event: RecordedEvent) -> None:
        assert isinstance(event.data, Boxed)
        value = event.data.value
        match event.data.done:
            case "noted if" if self.n != event.data.n:
                pass
            case "noted" | "noted if":
                self.note, self.stamp = value, (event.position, event.version)
            case "filled":
                self.body = value
            case "counted":
                self.n += value
            case "tagged":
                self.tags = value


def expected_rows(events: list[RecordedEvent]) -> dict[tuple[UUID, str], Row]:
    rows: dict[tuple[UUID, str], Row] = {}
    for event in events:
        assert isinstance(event.data, Boxed)
        key = event.stream_id, event.data.name
        if event.data.done == "made":
            rows[key] = Row(body=event.data.value, stamp=(event.position, event.version))
        elif event.data.done == "gone":
            rows.pop(key, None)
        elif key in rows:
            rows[key].apply(event)
    return rows


def stored_rows(user: User) -> dict[tuple[UUID, str], Row]:
    with user.session() as session:
        return {
            (one.box, one.name): Row(
                one.n, one.note, one.body, one.tags, (one.position, one.version)
            )
            for one in session.exec(select(Box))
        }


TEXT = st.text(st.characters(exclude_categories=[]), max_size=3)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
TAG = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
CHANGE = st.one_of(
    st.tuples(st.just("made"), VALUE),  # `appends` deletes a box that exists already instead
    st.tuples(st.just("noted"), st.sampled_from(["", "a", "b"])),
    st.tuples(st.just("filled"), VALUE),
    st.tuples(st.just("counted"), st.integers(-9, 9)),
    st.tuples(st.just("counted"), st.integers(-1, 1)),
    st.tuples(st.just("tagged"), st.none() | st.lists(TAG, max_size=3)),
    st.tuples(st.just("noted if"), st.sampled_from(["c", "d"]), st.integers(-2, 2)),
    st.tuples(st.just("noted if"), st.sampled_from(["e", "f"]), st.integers(-1, 1)),
)
STEP = st.tuples(st.integers(0, 1), st.sampled_from("ab"), CHANGE)


def appends(groups: list[list[Any]]) -> list[list[NewEvent]]:
    """Turn drawn steps into appends; a missing box is made, and a box made again is deleted."""
    boxes, existing = (uuid7(), uuid7()), set()
    made: list[list[NewEvent]] = []
    for group in groups:
        made.append([])
        for number, name, (done, value, *count) in group:
            key = number, name
            if key not in existing:
                existing.add(key)
                fields = {"done": "made", "value": value}
            elif done == "made":
                existing.remove(key)
                fields = {"done": "gone"}
            else:
                fields = {"done": done, "value": value, "n": (*count, 0)[0]}
            made[-1].append(box_event(boxes[number], name=name, **fields))
    return made


@pytest.mark.slow
@examples(100)
@given(groups=st.lists(st.lists(STEP, min_size=1, max_size=8), max_size=5))
def test_live_replayed_and_rebuilt_rows_are_equal_for_events_in_any_appends(
    service_store: EventStore, groups: list[list[Any]]
) -> None:
    user = service_store.user(str(uuid7()))

    recorded = [event for events in appends(groups) for event in user.append(events)]

    assert stored_rows(user) == expected_rows(recorded)
    assert service_store.verify(user.user_id).problems == ()
    with user.session(read_only=False) as session:
        for row in session.exec(select(Box)).all():
            session.delete(row)
        session.commit()
    assert service_store.rebuild(user.user_id).changed == len(expected_rows(recorded))
    assert stored_rows(user) == expected_rows(recorded)
