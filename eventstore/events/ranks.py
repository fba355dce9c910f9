"""
Ranks: the keys of the order that a user gives to tasks.

A task that was never moved stands where it was created: its key is its position. Moving a task
gives it a rank, a key between those of its two neighbours, so one move is one event and one row.
Keys are compared by code point (collation "C" in SQL). A rank is the key of a position, followed by
letters and digits.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import PlainValidator

from eventstore.errors import InvalidInput

__all__ = ["KEY_SQL", "MAX_RANK", "Rank", "key_of", "rank_between"]

MAX_RANK = 1_000
"""Characters; some 30 moves to one place make a rank one character longer."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE = len(_DIGITS)
_PREFIX = 19  # digits of the largest position
_OWN_DIGITS = 3

KEY_SQL = f"coalesce(rank, lpad(position::text, {_PREFIX}, '0')) collate \"C\""
"""The SQL of what `key_of` returns."""


def key_of(rank: str | None, position: int) -> str:
    """
    Return the key by which a task is ordered.

    :param position: of the task's creation.
    """
    return f"{position:0{_PREFIX}}" if rank is None else rank


def rank_between(low: str | None, high: str | None, task_id: UUID) -> str:
    """
    Return a rank between two keys.

    :param low: the key of the neighbour before; None at the beginning.
    :param high: the key of the neighbour after; None at the end.
    :param task_id: two tasks that are moved to one place at the same time get different ranks.
    :raises InvalidInput: the rank would be too long; so many tasks were moved to this place.
    """
    own = _own_digits(task_id)
    if low is None:
        if high is None:
            return key_of(None, 1) + own
        position = int(high[:_PREFIX])
        if position:
            return key_of(None, position - 1) + _tail_between("", None) + own
        rank = high[:_PREFIX] + _tail_between("", high[_PREFIX:]) + own
    elif high is not None and low < high and low[:_PREFIX] == high[:_PREFIX]:
        rank = low[:_PREFIX] + _tail_between(low[_PREFIX:], high[_PREFIX:]) + own
    else:
        # A task that is created later has a greater position, and so stands after this one.
        rank = low[:_PREFIX] + _tail_between(low[_PREFIX:], None) + own
    if len(rank) > MAX_RANK:
        raise InvalidInput(
            "task", "too many tasks were moved to this place; move its neighbours, then this one"
        )
    return rank


def _tail_between(low: str, high: str | None) -> str:
    """
    Return digits between two tails of one position, which do not end in 0.

    The digit next to a neighbour that stays is taken, not the middle, because most moves go to one
    place again and again: to the beginning, to the end, or directly after a task.
    """
    digits = ""
    for number in range(MAX_RANK):
        least = _DIGITS.index(low[number]) if number < len(low) else 0
        most = _BASE
        if high is not None:
            most = _DIGITS.index(high[number]) if number < len(high) else 0
        if most - least > 1:
            if not low and high is None:
                return digits + _DIGITS[_BASE // 2]
            if high is None:
                return digits + _DIGITS[least + 1]
            return digits + _DIGITS[(least + most) // 2 if low else most - 1]
        digits += _DIGITS[least]
        if most > least:
            high = None
    return digits  # longer than a rank may be


def _own_digits(task_id: UUID) -> str:
    number = task_id.int
    digits = ""
    for _ in range(_OWN_DIGITS - 1):
        number, digit = divmod(number, _BASE)
        digits += _DIGITS[digit]
    return digits + _DIGITS[1 + number % (_BASE - 1)]


def _rank(value: object) -> str:
    text = value if isinstance(value, str) else ""
    digits = text[:_PREFIX]
    is_rank = len(digits) == _PREFIX and digits.isascii() and digits.isdigit()
    if not is_rank or not set(text) <= {*_DIGITS} or len(text) > MAX_RANK:
        raise InvalidInput("rank", f"{value!r:.40} is no rank; call `tasks.move`, which makes one")
    return text


Rank = Annotated[str, PlainValidator(_rank)]
