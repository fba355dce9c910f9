"""Times in the events of a service come back as they were: with zone, offset, fold and all."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, Field

from eventstore import Event, EventStore, InvalidInput, NewEvent
from eventstore.events.json_codec import loads
from eventstore.log.ids import uuid7

BERLIN = ZoneInfo("Europe/Berlin")


class Slot(BaseModel):
    begin: datetime | None = None
    length: timedelta | None = None


class Planned(Event, type="Planned", stream_kind="plan"):
    at: datetime | None = None
    on: date | None = None
    daily: time | None = None
    takes: timedelta | None = None
    either: datetime | date | None = None
    text: str | None = None
    several: list[datetime] = Field(default=[])
    named: dict[str, time] = Field(default={})
    slot: Slot | None = None
    pair: tuple[datetime, timedelta] | None = None
    anything: Any = None


TIMESTAMPS = {
    "in a zone": datetime(2026, 3, 29, 9, tzinfo=BERLIN),
    "in an hour that the clock repeats": datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),
    "in that hour again": datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    "in an hour that the clock skips": datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN),
    "with an offset": datetime(2026, 3, 29, 9, 0, 0, 123456, timezone(timedelta(hours=-7))),
    "with an odd offset": datetime(2026, 3, 29, 9, tzinfo=timezone(timedelta(seconds=1172))),
    "in a zone of another century": datetime(1900, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam")),
    "in UTC": datetime(2026, 3, 29, 9, tzinfo=UTC),
    "in the zone UTC": datetime(2026, 3, 29, 9, tzinfo=ZoneInfo("UTC")),
    "at the end": datetime.max.replace(tzinfo=UTC),
    "at the beginning": datetime.min.replace(tzinfo=UTC),
}


def again(event: Planned) -> Planned:
    """Return the event as a log gives it back."""
    text = event.payload_text()
    assert loads(text) == event.to_payload()
    return Planned.from_payload(loads(text))


def values(at: Any) -> tuple[object, ...]:
    zone = at.tzinfo.key if isinstance(at.tzinfo, ZoneInfo) else None
    return (at.replace(tzinfo=None), at.utcoffset(), zone, at.dst() if zone else None)


@pytest.mark.parametrize("name", TIMESTAMPS)
def test_a_timestamp_comes_back_in_its_zone(name: str) -> None:
    at = TIMESTAMPS[name]
    event = Planned(
        at=at,
        either=at,
        several=[at, at],
        slot=Slot(begin=at),
        pair=(at, timedelta(1)),
    )

    back = again(event)

    assert back == event
    assert back.slot is not None
    assert back.pair is not None
    assert isinstance(back.either, datetime)
    for found in (back.at, back.either, *back.several, back.slot.begin, back.pair[0]):
        assert values(found) == values(at)


@pytest.mark.parametrize(
    "fields",
    [
        {"on": date(2026, 11, 30)},
        {"daily": time(9, 30)},
        {"daily": time(9, 30, tzinfo=UTC)},
        {"daily": time(9, 30, tzinfo=BERLIN)},
        {"daily": time(9, 30, tzinfo=timezone(timedelta(seconds=1172)))},
        {"named": {"a": time(9, 30, 0, 5, BERLIN), "b": time.max}},
        *[
            {"takes": takes, "slot": Slot(length=takes)}
            for takes in (
                timedelta(0),
                timedelta(days=400, hours=5, microseconds=7),
                timedelta(microseconds=-1),
                timedelta.max,
                timedelta.min,
            )
        ],
    ],
)
def test_a_date_a_time_of_day_and_a_duration_come_back(fields: dict[str, Any]) -> None:
    event = Planned(**fields)

    back = again(event)

    assert back == event
    for name in fields:
        assert repr(getattr(back, name)) == repr(getattr(event, name)) or name == "daily"
    if isinstance(event.daily, time) and isinstance(event.daily.tzinfo, ZoneInfo):
        assert back.daily is not None
        assert back.daily.tzinfo is event.daily.tzinfo


def test_text_that_looks_like_a_time_stays_text() -> None:
    text = "2026-03-29T09:00:00+02:00[Europe/Berlin]"
    event = Planned(text=text, anything=[text], at=datetime(2026, 3, 29, tzinfo=BERLIN))

    back = again(event)

    assert (back.text, back.anything) == (text, [text])


def test_a_zone_whose_rules_have_changed_since_keeps_the_moment() -> None:
    stored = {"at": "2026-07-01T09:00:00+05:00[Europe/Berlin]"}

    at = Planned.from_payload(stored).at

    assert at is not None
    assert (at.isoformat(), at.tzinfo) == ("2026-07-01T06:00:00+02:00", BERLIN)


@pytest.mark.parametrize(
    "stored",
    ["2026-07-01T09:00:00+02:00[Mars/Base]", "2026-07-01T09:00:00+02:00[Europe/Berlin", "soon"],
)
def test_a_text_that_is_no_time_is_refused(stored: str) -> None:
    with pytest.raises(ValueError, match="Planned"):
        Planned.from_payload({"at": stored})


def test_events_with_times_are_appended_read_and_verified(database_url: str) -> None:
    event = Planned(at=TIMESTAMPS["in that hour again"], takes=timedelta(hours=1))
    with EventStore.connect(database_url, events=[Planned]) as store:
        alice = store.user("alice")

        alice.append([NewEvent(stream_id=uuid7(), data=event)])
        naive = Planned(at=datetime(2026, 3, 29))  # noqa: DTZ001 - refused
        with pytest.raises(InvalidInput, match="without time zone"):
            alice.append([NewEvent(stream_id=uuid7(), data=naive)])

        (read,) = alice.events()
        assert read.data == event
        assert isinstance(read.data, Planned)
        assert values(read.data.at) == values(event.at)
        assert store.verify().ok
