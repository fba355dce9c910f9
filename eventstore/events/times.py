"""
Times in the events of a service: stored with their time zone, and read back as they were.

A timestamp is stored as ISO 8601 writes it, with its offset, and the name of its zone behind it in
brackets if it has one (RFC 9557): `2026-03-29T09:00:00+02:00[Europe/Berlin]`. A duration is stored
as pydantic writes it: `P1DT2H`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, time, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

__all__ = ["validate_with_zones", "with_times_as_text"]


def with_times_as_text(value: Any) -> Any:
    """
    Return a value with its timestamps, times of day and durations as text, in mappings and lists.

    A timestamp without time zone stays, to be refused with its path.
    """
    match value:
        case datetime() if value.utcoffset() is not None:
            return value.isoformat() + _zone_suffix(value.tzinfo)
        case time():
            return value.isoformat() + _zone_suffix(value.tzinfo)
        case timedelta():
            return to_jsonable_python(value)
        case Mapping():
            return {key: with_times_as_text(item) for key, item in value.items()}
        case list() | tuple():
            return [with_times_as_text(item) for item in value]
        case _:
            return value


def validate_with_zones[M: BaseModel](model: type[M], payload: Any) -> M:
    """
    Return the model of a stored payload.

    pydantic reads neither the name of a zone nor seconds of an offset. Where it refuses a text for
    that, the text is read here, so a field of text that looks like a timestamp stays text.

    :raises ValidationError: the payload does not fit the model.
    """
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        read = payload
        for one in error.errors(include_url=False, include_context=False):
            if one["type"].startswith(("datetime_", "time_")):
                read = _with_time_at(read, one["loc"])
        if read == payload:
            raise
    return model.model_validate(read)


def _with_time_at(value: Any, path: tuple[int | str, ...]) -> Any:
    """Return a copy of a value with the text at a path, or where that leaves the value, as time."""
    if isinstance(value, str):
        return _time(value)
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(value, dict) and step in value:
        return {**value, step: _with_time_at(value[step], rest)}
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return [*value[:step], _with_time_at(value[step], rest), *value[step + 1 :]]
    return _with_time_at(value, rest)  # pydantic names the member of a union in its paths


def _time(text: str) -> Any:
    """Return the timestamp or time of day that a text is; the text if it is none."""
    written, bracket, name = text.partition("[")
    if bracket and not name.endswith("]"):
        return text
    try:
        zone = ZoneInfo(name[:-1]) if bracket else None
        at = datetime.fromisoformat(written) if "T" in written else time.fromisoformat(written)
    except (KeyError, ValueError, OSError):
        return text
    if zone is None:
        return at
    return at.replace(tzinfo=zone) if isinstance(at, time) else _in_zone(at, zone)


def _in_zone(at: datetime, zone: ZoneInfo) -> datetime:
    """Return a timestamp in a zone, at the time of day it was written with if the zone has that."""
    local = at.replace(tzinfo=zone)
    if local.utcoffset() == at.utcoffset():
        return local
    # The second of two hours that the clock repeats; or the zone has changed its rules since, and
    # then the moment counts.
    return at.astimezone(zone)


def _zone_suffix(zone: tzinfo | None) -> str:
    return f"[{zone.key}]" if isinstance(zone, ZoneInfo) and zone.key is not None else ""
