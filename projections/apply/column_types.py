"""
The types of columns that a projector can keep, and the values that each of them takes.

PostgreSQL casts the values of a row in the same way when it writes them and when it compares them
with a replay, so a value need not come back as it went. What a type must not do is depend on
anything but the value, and what a value must not do is fail half-way through a cast.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from math import isinf
from typing import Any
from uuid import UUID

from eventstore.errors import InvalidInput, NotStorable
from eventstore.events.json_codec import checked_text
from projections.changes import OCCURRED_AT, POSITION, RECORDED_AT, VERSION, Marker

__all__ = ["ColumnType", "column_type", "key_value_text"]


@dataclass(frozen=True, slots=True)
class ColumnType:
    """
    A type of column that rows can be kept in.

    :ivar sql: the type as values are cast to it.
    :ivar check: refuses a value, other than None, that the column cannot hold.
        :raises InvalidInput: with an empty path.
    :ivar encode: writes a value as text; None if parameters and JSON hold it as it is.
    :ivar markers: those that may stand for a value.
    :ivar key: whether it may be part of a key: equal in SQL is equal in Python.
    """

    sql: str
    check: Callable[[Any], object]
    encode: Callable[[Any], Any] | None = None
    markers: frozenset[Marker] = frozenset()
    key: bool = False

    @property
    def is_large(self) -> bool:
        """Whether a value may have megabytes."""
        return self.is_list or self.sql.startswith(_LARGE)

    @property
    def is_list(self) -> bool:
        """Whether the column is an array."""
        return self.sql.endswith("]")

    @property
    def compares(self) -> bool:
        """Whether a condition may be on it, because equal in SQL is equal in Python."""
        return self.key or self.sql == "boolean"

    @property
    def counts(self) -> bool:
        """Whether an `Increment` may work on it."""
        return self.markers == _NUMBERS


_LARGE = ("bytea", "decimal", "json", "numeric", "text", "varchar")
_NUMBERS = frozenset({POSITION, VERSION})


def column_type(sql_type: str) -> ColumnType | None:
    """
    Return the type of a column; None if a projector can keep no rows in it.

    :param sql_type: as SQLAlchemy's dialect of PostgreSQL writes it, in lower case.
    """
    if sql_type in _TYPES:
        return _TYPES[sql_type]
    if found := re.fullmatch(r"varchar(?:\((\d+)\))?", sql_type):
        return ColumnType(sql_type, _text(int(found[1]) if found[1] else None), key=True)
    # PostgreSQL makes `real` of float(1) to float(24), and `real` would round what is stored.
    if re.fullmatch(r"float(\((2[5-9]|[345]\d)\))?", sql_type):
        return _TYPES["double precision"]
    if found := re.fullmatch(r"(?:numeric|decimal)(?:\((\d+)(?:, (-?\d+))?\))?", sql_type):
        digits = (int(found[1]), int(found[2] or 0)) if found[1] else None
        return ColumnType(sql_type, _numeric(digits), _number_text)
    item = column_type(sql_type.removesuffix("[]")) if sql_type.endswith("[]") else None
    if item is not None and item.key:
        return ColumnType(sql_type, _list_of(item), _array_text)
    return None


def _wrong(value: object, wanted: str) -> InvalidInput:
    return InvalidInput("", f"is a {type(value).__name__}; the column takes {wanted}")


def _only(*kinds: type, but: tuple[type, ...] = ()) -> Callable[[Any], None]:
    names = " or ".join(kind.__name__ for kind in kinds)

    def check(value: Any) -> None:
        if not isinstance(value, kinds) or isinstance(value, but):
            raise _wrong(value, names)

    return check


def _text(limit: int | None) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not isinstance(value, str):
            raise _wrong(value, "str")
        # An explicit cast to varchar(n) cuts a longer text without an error.
        if limit is not None and len(value) > limit:
            raise InvalidInput("", f"has {len(value)} characters; the column takes {limit}")
        if "\0" in value:
            raise NotStorable("", "has a NUL, which PostgreSQL text cannot hold")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise NotStorable("", f"has a lone surrogate at character {error.start}") from None

    return check


def _integer(bits: int) -> Callable[[Any], None]:
    limit = 2 ** (bits - 1)

    def check(value: Any) -> None:
        # `True` is an int in Python, but `true` is no integer in the JSON of a row.
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong(value, "int")
        if not -limit <= value < limit:
            raise InvalidInput("", f"is a number of more than {bits} bits")

    return check


def _decimal(value: Any) -> Decimal:
    """Return a number exactly as `_number_text` writes it."""
    if not isinstance(value, int | float | Decimal) or isinstance(value, bool):
        raise _wrong(value, "a number")
    # Decimal(0.1) would have the 55 digits of the binary value, and what is sent is "0.1". An enum
    # of floats has a repr of its own, hence that of float.
    if isinstance(value, float):
        value = float.__repr__(value)
    number = Decimal(value)
    if number.is_snan():
        raise InvalidInput("", "is a signalling NaN, which PostgreSQL does not have")
    return number


def _number_text(value: Any) -> str:
    # `str` of an int refuses more than 4,300 digits; that of a Decimal does not.
    return str(_decimal(value))


def _double(value: Any) -> None:
    # Python makes infinity or 0 of a number out of range, and PostgreSQL refuses it.
    number = _decimal(value)
    nearest = float(number)
    if number.is_finite() and (isinf(nearest) or (number and not nearest)):
        raise _out_of_range()


def _numeric(digits: tuple[int, int] | None) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        number = _decimal(value)
        # numeric(p, s) takes NaN and no infinity; numeric takes both.
        if number.is_nan() or (number.is_infinite() and digits is None):
            return
        if number.is_infinite() or number.adjusted() >= _DIGITS_BEFORE_POINT:
            raise _out_of_range()
        if -int(number.as_tuple().exponent) > _DIGITS_AFTER_POINT:
            raise _out_of_range()
        if digits is not None:
            # PostgreSQL rounds before it looks at the limit: 9.995 does not fit numeric(3, 2). It
            # rounds halves away from 0, which Python calls ROUND_HALF_UP.
            precision, scale = digits
            rounded = number.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, _WIDE)
            if rounded and rounded.adjusted() >= precision - scale:
                raise _out_of_range()

    return check


_DIGITS_BEFORE_POINT, _DIGITS_AFTER_POINT = 131_072, 16_383
"""What PostgreSQL's numeric can hold."""

# `quantize` fails if its result has more digits than the context, so this one holds any numeric.
_WIDE = Context(prec=2 * (_DIGITS_BEFORE_POINT + _DIGITS_AFTER_POINT))


def _out_of_range() -> InvalidInput:
    return InvalidInput("", "is a number that the column cannot hold")


def _timestamp(value: Any) -> None:
    # PostgreSQL would read a timestamp without time zone by the setting of its session.
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise _wrong(value, "a datetime with a time zone")
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise InvalidInput("", "is not in the years 1 to 9999 in UTC") from None


def _utc_text(value: Any) -> Any:
    """Return a timestamp as text in UTC; a marker stays one."""
    # A time zone of Python may have an offset with seconds and microseconds; UTC has none.
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


def _list_of(item: ColumnType) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not isinstance(value, list):
            raise _wrong(value, "list")
        for one in value:
            if one is not None:
                item.check(one)

    return check


def _array_text(items: list[Any]) -> str:
    return f"{{{','.join(map(_item_text, items))}}}"


def key_value_text(value: Any) -> str:
    """
    Return the text of a value of a type that keys may have; of an enum it is its value's.

    :param value: text, a whole number, a UUID or a date.
    """
    # `str` of an enum may be the member's name, hence the methods of the base classes.
    if isinstance(value, str):
        return str.__str__(value)
    return int.__repr__(value) if isinstance(value, int) else str(value)


def _item_text(item: Any) -> str:
    # All other items are quoted: in an array null, commas, braces and blanks have a meaning.
    if item is None:
        return "null"
    text = key_value_text(item)
    return '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'


def _json_text(value: Any) -> str:
    return checked_text(value, "")


def _jsonb(value: Any) -> None:
    if _NOT_IN_JSONB.search(_json_text(value)):
        raise NotStorable("", "has a NUL or a lone surrogate; json can hold it, jsonb cannot")


# Backslashes in pairs before the `\u` are backslashes of the text, and no part of the escape.
_NOT_IN_JSONB = re.compile(r"(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])", re.IGNORECASE)
"""An escape of JSON that PostgreSQL reads, and cannot keep."""


_TYPES = {
    "bigint": ColumnType("bigint", _integer(64), markers=_NUMBERS, key=True),
    "boolean": ColumnType("boolean", _only(bool)),
    "bytea": ColumnType("bytea", _only(bytes), lambda value: f"\\x{value.hex()}"),
    # A datetime is a date in Python, but its day depends on the time zone of who casts it.
    "date": ColumnType("date", _only(date, but=(datetime,)), key=True),
    "double precision": ColumnType("double precision", _double, _number_text),
    "integer": ColumnType("integer", _integer(32), markers=_NUMBERS, key=True),
    "json": ColumnType("json", _json_text, _json_text),
    "jsonb": ColumnType("jsonb", _jsonb, _json_text),
    "smallint": ColumnType("smallint", _integer(16), markers=_NUMBERS, key=True),
    "text": ColumnType("text", _text(None), key=True),
    "timestamp with time zone": ColumnType(
        "timestamp with time zone", _timestamp, _utc_text, frozenset({OCCURRED_AT, RECORDED_AT})
    ),
    "uuid": ColumnType("uuid", _only(UUID), key=True),
}
