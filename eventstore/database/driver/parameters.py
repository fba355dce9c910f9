"""
Encode the parameters of SQL statements for libpq.

All parameters of a pipeline are encoded before its first byte leaves, so a value that has no SQL
form is refused while nothing was sent. Ids, bytes and arrays take PostgreSQL's binary form, which
is cheaper to write. Everything else goes as text, which PostgreSQL reads as whatever type the
statement has at that place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Any
from uuid import UUID

from eventstore.database.timestamps import microseconds
from eventstore.errors import NotStorable

__all__ = ["Parameters", "encode"]

type Parameters = tuple[list[bytes | None], list[int]]
"""The parameters of one statement and their formats, as libpq takes them."""

_TEXT, _BINARY = 0, 1


def encode(parameter_lists: Iterable[Sequence[Any]]) -> list[Parameters]:  # noqa: C901 - a case a type
    """
    Return the parameters of some statements as libpq takes them.

    A parameter is None, text, a number, a boolean, a UUID, bytes, a date or a timestamp, or a list
    of texts, integers, UUIDs, bytes or timestamps.

    :return: for each statement its values, None for NULL, and their formats.
    :raises NotStorable: a text holds NUL or a lone surrogate, or a value has no SQL form.
    """
    encoded: list[Parameters] = []
    try:
        for values in parameter_lists:
            data: list[bytes | None] = []
            formats: list[int] = []
            for value in values:
                one: bytes | None
                kind = type(value)
                if kind is str:
                    one, form = value.encode(), _TEXT
                    if b"\0" in one:
                        raise _nul()
                elif value is None:
                    one, form = None, _TEXT
                elif kind is UUID:
                    one, form = value.int.to_bytes(16), _BINARY
                elif kind is bytes:
                    one, form = value, _BINARY
                elif kind is int:
                    one, form = b"%d" % value, _TEXT
                else:
                    one, form = _encode_other(value)
                data.append(one)
                formats.append(form)
            encoded.append((data, formats))
    except UnicodeEncodeError as error:
        raise NotStorable("parameter", f"has a lone surrogate at {error.start}") from None
    except StructError as error:
        raise NotStorable("parameter", f"is a list with what has no SQL form: {error}") from None
    return encoded


def _encode_other(value: object) -> tuple[bytes, int]:
    """Return a value of a rarer type, or of a subclass, and its format."""
    if isinstance(value, list):
        return _array(value)
    if isinstance(value, str):
        data = str.encode(value)
        if b"\0" in data:
            raise _nul()
        return data, _TEXT
    if isinstance(value, UUID):
        return value.int.to_bytes(16), _BINARY
    if isinstance(value, bytes):
        return value, _BINARY
    if isinstance(value, bool):
        return str(value).encode(), _TEXT
    if isinstance(value, int):
        return int.__repr__(value).encode(), _TEXT  # of an enum too
    if isinstance(value, float):
        return float.__repr__(value).encode(), _TEXT
    if isinstance(value, date):
        return value.isoformat().encode(), _TEXT
    raise NotStorable("parameter", f"a {type(value).__name__} has no SQL form")


def _nul() -> NotStorable:
    return NotStorable("parameter", "has a NUL, which PostgreSQL text cannot hold")


_HEADER = Struct("!iiIii")  # dimensions, whether there are nulls, type, length, first index
_LENGTH = Struct("!i")
_BIGINT = Struct("!q")
_NULL = _LENGTH.pack(-1)
_BYTEA_TYPE, _BIGINT_TYPE, _TEXT_TYPE, _TIMESTAMP_TYPE, _UUID_TYPE = 17, 20, 25, 1184, 2950


def _array(items: list[Any]) -> tuple[bytes, int]:
    """Return an array and its format, with the type that its items tell."""
    nulls = sql_type = 0
    parts: list[bytes] = [b""]
    for item in items:
        if item is None:
            nulls = 1
            parts.append(_NULL)
            continue
        if isinstance(item, str):
            sql_type, data = _TEXT_TYPE, item.encode()
            if b"\0" in data:
                raise _nul()
        elif isinstance(item, UUID):
            sql_type, data = _UUID_TYPE, item.int.to_bytes(16)
        elif isinstance(item, bytes):
            sql_type, data = _BYTEA_TYPE, item
        elif isinstance(item, datetime):
            sql_type, data = _TIMESTAMP_TYPE, _BIGINT.pack(microseconds(item))
        else:
            sql_type, data = _BIGINT_TYPE, _BIGINT.pack(item)
        parts.append(_LENGTH.pack(len(data)))
        parts.append(data)
    if not sql_type:
        # The binary form must name the type of its items, which nothing tells here.
        return b"{%s}" % b",".join([b"null"] * len(items)), _TEXT
    parts[0] = _HEADER.pack(1, nulls, sql_type, len(items), 1)
    return b"".join(parts), _BINARY
