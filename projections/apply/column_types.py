"""
What a column of a read model takes: values that come back as they went.

SQL casts what it is given: it cuts text, rounds numbers, drops time zones. A replay does none of
that. So each value is made what its column gives back before SQL or a replay sees it, and one that
the column would change otherwise is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from math import isinf
from types import NoneType
from typing import Any
from uuid import UUID

from eventstore.errors import InvalidInput, NotStorable
from eventstore.log.ids import standard_uuid
from projections.changes import POSITION, RECORDED_AT, VERSION, WIDE_CONTEXT, Marker

__all__ = ["ColumnType", "column_type"]

type Coerce = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class ColumnType:
    """
    A type of column that rows can be kept in.

    :ivar cast: the SQL type that values are cast to, without what would cut or round them.
    :ivar take: returns a value, not None, as the column gives it back.
        :raises InvalidInput: with an empty place: the column would change it, or refuse it.
    :ivar plain: Python types whose values are taken as they are, so that `take` need not be asked.
    :ivar markers: which may stand for a value.
    :ivar key: whether it may be part of a key: equal in SQL is equal in Python, and hashable.
    :ivar counts: whether an `Increment` may work on it; `exact` if in any order.
    """

    cast: str
    coerce: Coerce
    plain: frozenset[type] = frozenset({NoneType})
    markers: frozenset[Marker] = frozenset()
    key: bool = True
    counts: bool = False
    exact: bool = True


def column_type(sql_type: str) -> ColumnType | None:
    """Return the type of a column from its SQL in lower case; None if no rows can be kept in it."""
    if sql_type in _PLAIN:
        return _PLAIN[sql_type]
    if found := re.fullmatch(r"(text|varchar)(?:\((\d+)\))?(?: collate .*)?", sql_type):
        return ColumnType(found[1], _text(int(found[2]) if found[2] else None))
    if found := re.fullmatch(r"(?:numeric|decimal)(?:\((\d+)(?:, (-?\d+))?\))?", sql_type):
        digits = (int(found[1]), int(found[2] or 0)) if found[1] else None
        return ColumnType("numeric", _numeric(digits), markers=_NUMBERS, counts=True)
    if re.fullmatch(r"float(\((2[5-9]|[345]\d)\))?", sql_type):
        return _PLAIN["double precision"]
    if found := re.fullmatch(r"(time(?:stamp)?)\(6\) (with(?:out)? time zone)", sql_type):
        return _PLAIN.get(f"{found[1]} {found[2]}")
    item = column_type(sql_type[:-2]) if sql_type.endswith("[]") else None
    if item is not None and item.cast not in _JSON and not item.cast.endswith("[]"):
        return ColumnType(f"{item.cast}[]", _list(item.coerce), key=False)
    return None


_NUMBERS = frozenset({POSITION, VERSION})
_JSON = {"json", "jsonb"}


def _wrong(value: object, wanted: str) -> InvalidInput:
    return InvalidInput("", f"{type(value).__name__}, the column takes {wanted}")


def _text(limit: int | None) -> Coerce:
    def coerce(value: Any) -> str:
        if not isinstance(value, str):
            raise _wrong(value, "str")
        text = value if type(value) is str else str.__str__(value)
        if limit is not None and len(text) > limit:
            raise InvalidInput("", f"{len(text)} characters, the column takes {limit}")
        if "\0" in text:
            raise NotStorable("", "holds NUL, which PostgreSQL text cannot")
        if not text.isascii() and not text.isprintable():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise NotStorable("", f"holds a lone surrogate at {error.start}") from None
        return text

    return coerce


def _integer(bits: int) -> Coerce:
    limit = 2 ** (bits - 1)

    def coerce(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong(value, "int")
        if not -limit <= value < limit:
            raise InvalidInput("", f"a number of more than {bits} bits")
        return int(value)

    return coerce


def _only(kind: type) -> Coerce:
    def coerce(value: Any) -> Any:
        if not isinstance(value, kind):
            raise _wrong(value, kind.__name__)
        return value

    return coerce


def _is_number(value: object) -> bool:
    return isinstance(value, float | int | Decimal) and not isinstance(value, bool)


def _double(value: Any) -> float:
    if not _is_number(value):
        raise _wrong(value, "float")
    try:
        number = float(value)
    except (OverflowError, ValueError):  # 10**400, a signalling NaN
        raise InvalidInput("", "a number that the column cannot hold") from None
    if (isinstance(value, Decimal) and value.is_finite() and isinf(number)) or (
        isinstance(value, int) and int(number) != value
    ):
        raise InvalidInput("", "a number that the column cannot hold")
    return number


def _numeric(digits: tuple[int, int] | None) -> Coerce:
    def coerce(value: Any) -> Decimal:
        if not _is_number(value):
            raise _wrong(value, "Decimal")
        number = Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)
        if number.is_snan() or (number.is_finite() and not _can_be_stored(number)):
            raise InvalidInput("", "a number that the column cannot hold")
        if digits is None or number.is_nan():
            return number
        precision, scale = digits
        if number.is_infinite():
            raise InvalidInput("", "infinite, the column has a precision")
        if number.adjusted() > precision:  # before it is rounded, which fills up with zeros
            raise InvalidInput("", f"more than {precision - scale} digits before the point")
        number = number.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, WIDE_CONTEXT)
        if number and number.adjusted() >= precision - scale:
            raise InvalidInput("", f"more than {precision - scale} digits before the point")
        return number

    return coerce


_BEFORE_POINT, _AFTER_POINT = 131_072, 16_383
"""Digits of PostgreSQL's numeric."""


def _can_be_stored(number: Decimal) -> bool:
    exponent = number.as_tuple().exponent
    return number.adjusted() < _BEFORE_POINT and -int(exponent) <= _AFTER_POINT


def _between[T: (date, datetime, time, timedelta)](value: T, first: T, last: T) -> T:
    if not first <= value <= last:
        raise InvalidInput("", f"{value} is not from {first} to {last}")
    return value


def _timestamptz(value: Any) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise _wrong(value, "datetime with a time zone")
    try:
        return _between(
            value.astimezone(UTC), _FIRST.replace(tzinfo=UTC), _LAST.replace(tzinfo=UTC)
        )
    except OverflowError:
        raise InvalidInput("", f"{value} is not from {_FIRST} to {_LAST}") from None


def _clockless(value: Any) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is not None:
        raise _wrong(value, "datetime without a time zone")
    return _between(value, _EARLIEST, datetime.max)  # noqa: DTZ901 - as the column is


def _day(value: Any) -> date:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise _wrong(value, "date")
    return _between(value, _EARLIEST.date(), date.max)


def _clock(value: Any) -> time:
    if not isinstance(value, time) or value.tzinfo is not None:
        raise _wrong(value, "time without a time zone")
    return _between(value, time(0), time(23, 59, 59, 999_998))


def _span(value: Any) -> timedelta:
    if not isinstance(value, timedelta):
        raise _wrong(value, "timedelta")
    return _between(value, timedelta(-999_999_998), timedelta(999_999_998))


_FIRST, _LAST = datetime.fromisoformat("0001-01-04"), datetime.fromisoformat("9999-12-28")
_EARLIEST = datetime.fromisoformat("0001-01-02")
"""What `instants.readable` reads as it is."""


def _uuid(value: Any) -> UUID:
    if not isinstance(value, UUID):
        raise _wrong(value, "UUID")
    return standard_uuid(value)


def _list(coerce: Coerce) -> Coerce:
    def coerce_all(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong(value, "list")
        return [None if one is None else coerce(one) for one in value]

    return coerce_all


def _as_it_is(value: Any) -> Any:
    """Take JSON, which is checked where it is written as text."""
    return value


def _or_null(*types: type) -> frozenset[type]:
    return frozenset({NoneType, *types})


_PLAIN = {
    **{
        name: ColumnType(name, _integer(bits), markers=_NUMBERS, counts=True)
        for name, bits in (("smallint", 16), ("integer", 32), ("bigint", 64))
    },
    "boolean": ColumnType("boolean", _only(bool), _or_null(bool)),
    "bytea": ColumnType("bytea", _only(bytes), _or_null(bytes)),
    "date": ColumnType("date", _day),
    "double precision": ColumnType(
        "double precision", _double, key=False, counts=True, exact=False
    ),
    "interval": ColumnType("interval", _span),
    "json": ColumnType("json", _as_it_is, _or_null(dict, list, str), key=False),
    "json[]": ColumnType("json[]", _list(_as_it_is), key=False),
    "jsonb": ColumnType("jsonb", _as_it_is, _or_null(dict, list, str), key=False),
    "time without time zone": ColumnType("time without time zone", _clock),
    "timestamp with time zone": ColumnType(
        "timestamp with time zone", _timestamptz, markers=frozenset({RECORDED_AT})
    ),
    "timestamp without time zone": ColumnType("timestamp without time zone", _clockless),
    "uuid": ColumnType("uuid", _uuid, _or_null(UUID)),
}
