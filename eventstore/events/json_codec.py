"""
A JSON codec that loses nothing.

orjson is fast, but it silently turns NaN into null and large integers into floats, and it refuses
lone surrogates. So both directions use orjson where its result is exact and the standard library
elsewhere. Values that JSON itself cannot hold (NaN, infinity, keys that are not text) are refused,
and the error names where they are.

`loads(dumps(value)) == value` for every value that `check_json` returns.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any
from uuid import UUID

import orjson
from pydantic_core import to_jsonable_python

from eventstore.errors import NotStorable

__all__ = [
    "MAX_NESTING",
    "MAX_WRAPPED",
    "Json",
    "as_json_text",
    "check_json",
    "checked_text",
    "dumps",
    "loads",
    "plain_json",
    "trusted_text",
]

type Json = bool | int | float | str | Decimal | list[Json] | dict[str, Json] | None

MAX_NESTING = 100
"""Levels of lists and objects in one value: well below the parsers' limits (orjson writes 254)."""

_TOO_DEEP = f"nested deeper than {MAX_NESTING} levels; flatten it"

MAX_WRAPPED = 2 * MAX_NESTING
"""Levels of what the store puts around such values: payloads, views, and lists of them."""

_MAX_INTEGER_BITS = 14_283
"""4,300 digits: Python reads no longer number back."""


def check_json(value: object, path: str, *, nesting: int = MAX_NESTING) -> Json:
    """
    Return `value` as plain JSON values, or raise an error that names the part JSON cannot hold.

    UUIDs, dates, timestamps (in UTC) and enums become their usual text or value, tuples become
    lists.

    :param path: what the path in an error begins with, like `output` in `output.items[3]`.
    :param nesting: levels at most.
    :return: a copy, which later changes of `value` do not reach.
    :raises NotStorable: NaN or infinity, a key that is not text or comes twice, another type, too
        many levels.
    """
    if type(value) is str:  # most of what there is
        return as_json_text(value)
    text = _plain_text(value)
    if text is None:
        return _check(value, path, nesting)
    # orjson reads back each float that it wrote itself, so the exact reader is not needed.
    copy: Json = orjson.loads(text)
    return copy


def plain_json(value: object, path: str) -> Json:
    """
    Return a value of a program as plain JSON values, whatever it is.

    Models, dataclasses, sets, bytes and the like are written as pydantic writes them in JSON mode,
    and what has no JSON form as its `repr` with a note: the result of a tool that has run is not
    to be lost. What `check_json` takes is as there, numbers to the last digit.

    :param path: as in `check_json`.
    :raises NotStorable: nested too deeply.
    """
    try:
        return check_json(value, path)
    except NotStorable:
        try:
            written = to_jsonable_python(value, bytes_mode="base64", fallback=_note_of)
        except ValueError as error:  # too deep for pydantic, or a serializer's own
            raise NotStorable(path, f"cannot be written as JSON: {error}") from error
        return check_json(_finite(written), path)


def _finite(value: Any) -> Any:
    """Write numbers that JSON lacks as text: pydantic leaves them as they are in Python values."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list():
            return list(map(_finite, value))
        case _:
            return value


def _note_of(value: object) -> dict[str, str]:
    return {"type": type(value).__qualname__, "repr": repr(value)}


def checked_text(value: object, path: str) -> str:
    """
    Return what `check_json` returns as compact JSON text.

    :param path: as in `check_json`.
    :raises NotStorable: as `check_json`.
    """
    text = _plain_text(value)
    return dumps(_check(value, path, MAX_NESTING)) if text is None else text.decode()


def trusted_text(value: object) -> str:
    """
    Return the compact JSON text of a value that was checked before.

    :param value: a result of `check_json`, or a dict of such results and UUIDs.
    """
    # No NaN is left in a checked value, so orjson's null for it needs no second look.
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return dumps(_check(value, "", MAX_WRAPPED))


# orjson would accept dataclasses and datetimes without time zone, which `_check` refuses.
_EXACTLY = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


def _plain_text(value: object) -> bytes | None:
    """Return JSON text if orjson surely writes the value exactly, else None: then it is walked."""
    try:
        text = orjson.dumps(value, option=_EXACTLY)
    except TypeError:
        return None
    # Brackets inside of texts count too: a value may be walked for nothing, and none is missed.
    if text.count(b"[") + text.count(b"{") > MAX_NESTING:
        return None
    # orjson writes NaN and infinity as null, so only a text with a null in it can hide one.
    if b"null" in text:
        try:
            _WITHOUT_NAN.encode(value)
        except ValueError:
            return None
    return text


def _looked_into(value: object) -> object:
    """Return what may hide a NaN of a value that JSON has no form for, such as a UUID."""
    return value.value if isinstance(value, Enum) else str(value)


# Only its refusal of NaN counts: the value is that of an enum too. orjson has refused circles.
_WITHOUT_NAN = json.JSONEncoder(allow_nan=False, check_circular=False, default=_looked_into)


def _check(value: object, path: str, levels: int) -> Json:  # noqa: C901, PLR0912 - a case a type
    if type(value) is str:
        return as_json_text(value)
    match value:
        # An IntEnum or StrEnum is an int or str too, and would stay an enum in their cases.
        case Enum():
            return _check(value.value, path, levels)
        case None | bool():
            return value
        case int():
            # Bits, because Python refuses to write out the digits of a longer integer.
            if value.bit_length() > _MAX_INTEGER_BITS:
                raise NotStorable(path, "an integer of over 4,300 digits; send it as a string")
            return value
        case str():
            return as_json_text(value)
        case float():
            if not math.isfinite(value):
                raise NotStorable(path, f"{value} is not a JSON number; send null or a string")
            return value
        case Mapping() | list() | tuple():
            if levels <= 0:
                raise NotStorable(path, _TOO_DEEP)
            return _check_container(value, path, levels - 1)
        case Decimal():
            if not value.is_finite():
                raise NotStorable(path, f"{value} is not a JSON number; send null or a string")
            number: Json = loads(str(value))  # a float or an integer, where that is the same
            return number
        case datetime():
            if value.tzinfo is None:
                raise NotStorable(path, "a datetime without time zone; attach one")
            try:
                return value.astimezone(UTC).isoformat()
            except OverflowError:
                raise NotStorable(
                    path, "a timestamp whose UTC year is out of range; give another"
                ) from None
        # A datetime is a date too, so this case follows the one for datetimes.
        case UUID() | date():
            return str(value)
        case _:
            raise NotStorable(
                path, f"{type(value).__name__} has no JSON form; convert it to plain values"
            )


def _check_container(
    value: Mapping[Any, Any] | list[Any] | tuple[Any, ...], path: str, levels: int
) -> Json:
    if not isinstance(value, Mapping):
        return [_check(item, f"{path}[{i}]", levels) for i, item in enumerate(value)]
    checked: dict[str, Json] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise NotStorable(
                path, f"a key of type {type(key).__name__} is not text; JSON keys are strings"
            )
        # A StrEnum is text too, and would stay an enum.
        name = as_json_text(str.__str__(key))
        # A pair of surrogates and the character that it stands for are one key once written.
        if name in checked:
            raise NotStorable(path, "has two keys that are one in JSON; rename one of them")
        checked[name] = _check(item, f"{path}.{key}", levels)
    return checked


def as_json_text(text: str) -> str:
    """
    Return `text` as it comes back from JSON.

    :return: the text with each pair of surrogates as one character; a lone surrogate stays.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        # UTF-16 has characters beyond U+FFFF as pairs, so decoding joins the pairs in the text.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


def dumps(value: object) -> str:
    """
    Write a value as compact JSON text; characters that UTF-8 cannot encode are escaped.

    :param value: a result of `check_json`; the order of keys is kept.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a lone surrogate, an integer over 64 bits, a Decimal
        return _write(value)


def loads(text: str) -> Any:
    """
    Read JSON text exactly.

    A number comes back as int or float, or as Decimal where a float would not be the number as
    written (1.10, 1e400). Of duplicate keys in an object the last one wins, as usual in Python.

    :raises ValueError: the text is not JSON.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:  # a lone surrogate, a number beyond a float, deep nesting
        return _read(text)
    # orjson makes a float of every number it cannot hold exactly; then the text is read again.
    return _read(text) if _holds_float(value) else value


def _holds_float(value: Any) -> bool:
    if type(value) is float:
        return True
    # The list grows while it is walked. Recursion would end at Python's limit, which is lower than
    # the 1,024 levels that orjson reads.
    containers = [value]
    for one in containers:
        items = one.values() if type(one) is dict else one if type(one) is list else ()
        for item in items:
            kind = type(item)
            if kind is float:
                return True
            if kind is dict or kind is list:
                containers.append(item)
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
    # Tuples of digits differ where numbers are equal: 1.10 is 1.1, and would be written as 1.1.
    exact = Decimal(digits)
    if math.isfinite(number) and Decimal(repr(number)).as_tuple() == exact.as_tuple():
        return number
    return exact


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_exact, parse_constant=_refuse)


def _write(value: object) -> str:
    """Write a value that orjson refuses; `MAX_NESTING` bounds the recursion."""
    match value:
        case Decimal():
            return str(value)
        # The standard encoder cannot write a Decimal as a number, so containers are written here.
        case dict():
            members = (f"{_write_text(key)}:{_write(item)}" for key, item in value.items())
            return "{" + ",".join(members) + "}"
        case list():
            return "[" + ",".join(map(_write, value)) + "]"
        case str():
            return _write_text(value)
        case _:
            return json.dumps(value)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _write_text(text: str) -> str:
    """Write text as orjson does, and escape besides what UTF-8 cannot encode."""
    written = json.dumps(text, ensure_ascii=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", written)
