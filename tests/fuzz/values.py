"""
Arguments that callers have by accident: of the wrong type, out of range, or not to be stored.

`any_value` also draws what is right for a parameter, so that a call gets as far as the argument
that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

__all__ = ["POSSIBLE_ARGUMENTS", "TEXTS", "any_json", "any_value", "hostile"]


class _Text(str):
    __slots__ = ()


class _Number(int):
    __slots__ = ()


class _Deep(list[Any]):
    """A list that a report of a failed test can show."""

    def __repr__(self) -> str:
        return "a deep list"


def _nested(depth: int) -> list[Any]:
    value = _Deep()
    for _ in range(depth):
        value = _Deep([value])
    return value


def _circular() -> list[Any]:
    value = _Deep()
    value.append(value)
    return value


TEXTS: Sequence[str] = (
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff and more",
    "\ufeff",
    "\u202etxet",
    "e\u0301",
    "\U0001d518",
    "👩‍👩‍👧",
    "\n\r\t\x0b\x1b[31m",
    "'; drop table eventstore.event; --",
    '"quoted"',
    "%s %(name)s {0} $1 \\",
    "../../etc",
    "null",
    "NaN",
    "-1",
    "1e400",
    "9" * 5000,
    "x" * 20_000,
    "2026-02-30",
    "infinity",
    "00000000-0000-0000-0000-000000000000",
)


def _is_possible(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


# A process is given no other ones, neither as arguments nor in its environment.
POSSIBLE_ARGUMENTS = [*filter(_is_possible, TEXTS)]

# Each is made anew, because a call may keep or change what it is given.
_OTHERS: Sequence[Any] = (
    lambda: None,
    lambda: True,
    lambda: 0,
    lambda: -1,
    lambda: 2**31,
    lambda: 2**63,
    lambda: -(2**63) - 1,
    lambda: 10**5000,
    lambda: math.nan,
    lambda: math.inf,
    lambda: -0.0,
    lambda: 1e308,
    lambda: 5e-324,
    lambda: Decimal("NaN"),
    lambda: Decimal("sNaN"),
    lambda: Decimal("1e1000000"),
    lambda: Fraction(1, 3),
    lambda: 1j,
    lambda: b"bytes\xff",
    lambda: bytearray(b"x"),
    lambda: memoryview(b"x"),
    list,
    dict,
    lambda: (),
    set,
    lambda: frozenset({"a"}),
    lambda: iter(["a"]),
    lambda: range(3),
    lambda: [None],
    lambda: [{}],
    lambda: {1: 2},
    lambda: {"": {"\0": "\ud800"}},
    lambda: {"a": math.nan},
    lambda: {"a": {1, 2}},
    lambda: _nested(50),
    lambda: _nested(100_000),
    _circular,
    object,
    lambda: object,
    lambda: len,
    lambda: ...,
    lambda: NotImplemented,
    lambda: Path("x"),
    lambda: _Text("x"),
    lambda: _Number(1),
    lambda: UUID(int=0),
    lambda: UUID(int=2**128 - 1),
    lambda: date.min,
    lambda: date.max,
    lambda: datetime.min,  # noqa: DTZ901
    lambda: datetime.max,  # noqa: DTZ901
    lambda: datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    lambda: datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
    lambda: datetime(2026, 1, 1, tzinfo=UTC),
    lambda: time(1),
    lambda: timedelta.max,
    lambda: ValueError("x"),
)


def hostile() -> st.SearchStrategy[Any]:
    """Draw a value that most parameters refuse."""
    made = st.sampled_from(_OTHERS).map(lambda make: make())
    return st.one_of(st.sampled_from(TEXTS), made, st.text(max_size=5))


def any_value(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw what is right for a parameter, or what is not, alone or in a container."""
    wrong = hostile()
    inside = st.one_of(
        st.lists(st.one_of(right, wrong), max_size=3),
        st.dictionaries(st.sampled_from(["type", "role", "content", "call_id", "x"]), wrong),
    )
    return st.one_of(right, right, wrong, inside)


_JSON: Sequence[Any] = (
    None, True, False, 0, -1, 2**63, 10**400, 1.5, -0.0, 1e308, math.nan, math.inf,
    *([], {}, [None], [[]], {"": ""}, {"id": "x"}, _nested(50), _nested(300)),
)  # fmt: skip


def any_json(sample: Any) -> st.SearchStrategy[Any]:
    """Draw a copy of a JSON value in which a part is another one, is missing, or comes twice."""
    paths = list(_paths(sample, ()))
    changes = st.sampled_from(["replace", "remove", "repeat"])
    other = st.one_of(st.sampled_from(TEXTS), st.sampled_from(_JSON))
    change = st.tuples(st.sampled_from(paths), changes, other)
    return st.lists(change, min_size=1, max_size=3).map(lambda some: _changed(sample, some))


def _paths(value: Any, path: tuple[Any, ...]) -> Any:
    yield path
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _paths(one, (*path, key))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _paths(one, (*path, number))


def _changed(value: Any, changes: Sequence[tuple[tuple[Any, ...], str, Any]]) -> Any:
    for path, how, other in changes:
        value = _changed_at(value, path, how, other)
    return value


def _changed_at(value: Any, path: tuple[Any, ...], how: str, other: Any) -> Any:
    """Return a copy with one change; without it if the path is gone already."""
    if not path:
        return other
    key, *rest = path
    if isinstance(value, Mapping) and key in value:
        inside = dict(value)
        if not rest and how == "remove":
            del inside[key]
        else:
            inside[key] = _changed_at(value[key], tuple(rest), how, other)
        return inside
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        items = list(value)
        if rest or how == "replace":
            items[key] = _changed_at(value[key], tuple(rest), how, other)
        elif how == "remove":
            del items[key]
        else:
            items.append(value[key])
        return items
    return value
