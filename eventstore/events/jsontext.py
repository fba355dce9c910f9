"""
JSON text that loses nothing.

orjson is fast but quietly turns NaN into null and large integers into floats, and refuses lone
surrogates. So each direction has two ways: orjson where that is exact, the standard library where
it is not. What JSON itself cannot hold (NaN, infinity, keys that are not text) is refused by name.

`loads(dumps(value)) == value` for every value `check_json` lets through.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any
from uuid import UUID

import orjson

from eventstore.errors import NotStorable

__all__ = [
    "MAX_NESTING",
    "Json",
    "as_json_text",
    "check_json",
    "dumps",
    "loads",
    "repeats_keys",
]

type Json = bool | int | float | str | Decimal | list[Json] | dict[str, Json] | None

MAX_NESTING = 100
"""Levels of lists and objects in one value: far under the parsers' limits (orjson writes 254)."""

_MAX_INTEGER_BITS = 14_283
"""4,300 digits: more than that Python does not read back."""


def check_json(value: object, place: str, depth: int = 0) -> Json:  # noqa: C901, PLR0912 - a case a type
    """
    Return `value` as plain JSON values, or say which part of it JSON cannot hold.

    UUIDs, dates, instants (as UTC) and enums become their usual text or value; tuples become lists.

    :param place: the name that errors begin with, as `output` in `output.items[3]`.
    :raises NotStorable: NaN or infinity, a key that is not text, another type, nesting over 100.
    """
    if type(value) is str:  # most of what there is
        return as_json_text(value)
    match value:
        case Enum():
            return check_json(value.value, place, depth)
        case None | bool():
            return value
        case int():
            if value.bit_length() > _MAX_INTEGER_BITS:
                raise NotStorable(place, "an integer of over 4,300 digits; send it as a string")
            return value
        case str():
            return as_json_text(value)
        case float():
            if not math.isfinite(value):
                raise NotStorable(place, f"{value} is not a JSON number; send null or a string")
            return value
        case Mapping() | list() | tuple():
            if depth >= MAX_NESTING:
                raise NotStorable(place, f"nested deeper than {MAX_NESTING} levels; flatten it")
            return _check_container(value, place, depth)
        case Decimal():
            if not value.is_finite():
                raise NotStorable(place, f"{value} is not a JSON number; send null or a string")
            number: Json = loads(str(value))  # a float or an integer, where that is the same
            return number
        case datetime():
            if value.tzinfo is None:
                raise NotStorable(place, "a datetime without time zone; attach one")
            try:
                return value.astimezone(UTC).isoformat()
            except OverflowError:
                raise NotStorable(place, "an instant that UTC has no year for") from None
        case UUID() | date():
            return str(value)
        case _:
            raise NotStorable(
                place, f"{type(value).__name__} has no JSON form; convert it to plain values"
            )


def _check_container(
    value: Mapping[Any, Any] | list[Any] | tuple[Any, ...], place: str, depth: int
) -> Json:
    if not isinstance(value, Mapping):
        return [check_json(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]
    checked: dict[str, Json] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise NotStorable(place, f"key {key!r} is not text; JSON keys are strings")
        checked[as_json_text(key)] = check_json(item, f"{place}.{key}", depth + 1)
    return checked


def as_json_text(text: str) -> str:
    """
    Return `text` as JSON hands it back.

    Two surrogates that make a pair are one character there; a lone one stays as it is.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


def dumps(value: object) -> str:
    """
    Write checked values as compact JSON text, ASCII-escaped where UTF-8 cannot hold them.

    :param value: what `check_json` returned; key order is kept.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a lone surrogate, an integer over 64 bits, a Decimal
        return _write(value)


def loads(text: str) -> Any:
    """
    Read JSON text exactly.

    A number comes back as int or float, or as Decimal where a float would not be what is written
    (1.10, 1e400). Of duplicate keys in one object the last wins, as everywhere in Python.

    :raises ValueError: not JSON.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:  # a lone surrogate, a number beyond a float, deep nesting
        return _read(text)
    # What orjson could not hold exactly it made a float: then read again, digit by digit.
    return _read(text) if _holds_float(value) else value


def repeats_keys(text: str) -> bool:
    """Tell whether an object in valid JSON text names a key twice, which hides the first value."""
    repeated = False

    def see(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        members = dict(pairs)
        repeated = repeated or len(members) < len(pairs)
        return members

    json.loads(text, object_pairs_hook=see, parse_float=str, parse_int=str)
    return repeated


def _holds_float(value: Any) -> bool:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        kind = type(one)
        if kind is dict:
            waiting.extend(one.values())
        elif kind is list:
            waiting.extend(one)
        elif kind is float:
            return True
    return False


def _read(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except InvalidOperation:
        raise ValueError("a number whose exponent no decimal can hold") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _exact(digits: str) -> float | Decimal:
    number = float(digits)
    exact = Decimal(digits)
    if math.isfinite(number) and Decimal(repr(number)).as_tuple() == exact.as_tuple():
        return number
    return exact


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_exact, parse_constant=_refuse)


def _write(value: object) -> str:
    """Write what orjson cannot; recursion is bounded by `MAX_NESTING`."""
    match value:
        case Decimal():
            return str(value)
        case dict():
            return (
                "{" + ",".join(f"{json.dumps(k)}:{_write(item)}" for k, item in value.items()) + "}"
            )
        case list():
            return "[" + ",".join(map(_write, value)) + "]"
        case _:
            return json.dumps(value)
