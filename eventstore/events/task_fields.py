"""
When a task is due, and what else a task has beside its text: priority and tags.

A task is due on a date, wherever its user is, or at a timestamp, with the name of the time zone in
which the user thinks of it. It is never both.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import PlainValidator

from eventstore.errors import InvalidInput
from eventstore.events.fields import check_label

__all__ = [
    "DUE_FIELDS",
    "MAX_TAG",
    "MAX_TAGS",
    "PRIORITIES",
    "DueAt",
    "DueOn",
    "DueZone",
    "Priority",
    "PriorityField",
    "Tags",
    "check_tag",
    "check_zone",
    "due_fields",
    "require_one_due",
]

type Priority = Literal["low", "normal", "high", "urgent"]
"""How important a task is; a task without a word about it is `normal`."""

PRIORITIES: tuple[str, ...] = get_args(Priority.__value__)

DUE_FIELDS = ("due_on", "due_at", "due_zone")

MAX_TAG = 100
"""Characters of a tag."""

MAX_TAGS = 50
"""Tags of one task."""

_MAX_ZONE = 100


def check_zone(value: object, path: str) -> ZoneInfo:
    """
    Return the time zone with a name of IANA's database, such as `Europe/Berlin`.

    :param path: where the value stands in the caller's input.
    :raises InvalidInput: no such zone.
    """
    if isinstance(value, ZoneInfo) and value.key is not None:
        return value
    name = check_label(value, path, _MAX_ZONE)
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # a directory of zones is an OSError
        raise InvalidInput(
            path, f"{name!r:.60} is no time zone; give a name such as 'Europe/Berlin'"
        ) from None


def check_tag(value: object, path: str) -> str:
    """
    Return a tag: 1 to 100 characters, compared exactly.

    :raises InvalidInput: it is none.
    """
    return check_label(value, path, MAX_TAG)


def due_fields(due_on: object, due_at: object, due_zone: object) -> dict[str, Any]:
    """
    Return the fields of an event that says when a task is due; none of them of one without.

    :param due_at: without a time zone it is the time of day in `due_zone`; one that the clock skips
        or repeats in a change of daylight saving time is read with the offset before the change.
    :param due_zone: a name; None takes it from `due_at`, if that has one.
    :raises InvalidInput: a value does not fit its field, or both are given.
    """
    if due_at is not None:
        at = _datetime(due_at)
        zone = None if due_zone is None else check_zone(due_zone, "due_zone")
        if at.tzinfo is None and zone is not None:
            at = at.replace(tzinfo=zone)
        elif zone is None and isinstance(at.tzinfo, ZoneInfo) and at.tzinfo.key is not None:
            zone = at.tzinfo
        due_at, due_zone = at, None if zone is None else zone.key
    values = {"due_on": due_on, "due_at": due_at, "due_zone": due_zone}
    return {name: value for name, value in values.items() if value is not None}


def require_one_due(values: Mapping[str, Any]) -> None:
    """
    Refuse a task that is due twice, or a time zone of nothing.

    :raises InvalidInput: `due_on` beside `due_at`, or `due_zone` without `due_at`.
    """
    if values.get("due_at") is None:
        if values.get("due_zone") is not None:
            raise InvalidInput("due_zone", "is the time zone of `due_at`; give both, or neither")
    elif values.get("due_on") is not None:
        raise InvalidInput("due_on", "is given beside `due_at`; a task is due once, give one")


def _datetime(value: object) -> datetime:
    try:
        value = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise InvalidInput("due_at", "is no timestamp; give 2026-11-30T09:00+01:00") from None
    if not isinstance(value, datetime):
        raise InvalidInput("due_at", f"is a {type(value).__name__}; give a datetime")
    return value


def _due_at(value: object) -> datetime:
    at = _datetime(value)
    if at.utcoffset() is None:
        raise InvalidInput("due_at", "is without time zone; attach one, or give `due_zone`")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise InvalidInput("due_at", "is not in the years 1 to 9999 in UTC") from None


def _due_on(value: object) -> date:
    try:
        value = date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise InvalidInput("due_on", "is no date; give 2026-11-30") from None
    if not isinstance(value, date) or isinstance(value, datetime):
        raise InvalidInput("due_on", f"is a {type(value).__name__}; give a date, or `due_at`")
    return date(value.year, value.month, value.day)


def _due_zone(value: object) -> str:
    return check_zone(value, "due_zone").key


def _priority(value: object) -> str:
    if not isinstance(value, str) or value not in PRIORITIES:
        raise InvalidInput("priority", f"{value!r:.40}; give one of {', '.join(PRIORITIES)}")
    return str(value)


def _tags(value: object) -> list[str]:
    if not isinstance(value, list | tuple):
        raise InvalidInput("tags", f"is a {type(value).__name__}; give a list of texts")
    tags = list(dict.fromkeys(check_tag(one, f"tags[{n}]") for n, one in enumerate(value)))
    if len(tags) > MAX_TAGS:
        raise InvalidInput("tags", f"{len(tags)} tags, the limit is {MAX_TAGS}")
    return tags


DueOn = Annotated[date, PlainValidator(_due_on)]
DueAt = Annotated[datetime, PlainValidator(_due_at)]
DueZone = Annotated[str, PlainValidator(_due_zone)]
PriorityField = Annotated[str, PlainValidator(_priority)]
Tags = Annotated[list[str], PlainValidator(_tags)]
