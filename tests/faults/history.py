"""
What concurrent clients did and saw, and whether one log explains it.

A recorded history is a list of writes and reads with the times between which each happened. The log
at the end says in which order the writes took effect. From these two `check` tells what is wrong:

- `lost`: an acknowledged value is not at its position, or not at all;
- `doubled`: a value is in the log twice;
- `ghost`: a value of a write that was refused, or of none, is in the log;
- `torn`: the values of one append are not all there, one behind the other;
- `order`: a write that ended before another began stands behind it;
- `lost update`: two updates were made of one state;
- `never was`: a read saw what the log was at no time, or what had not been written yet;
- `stale`: a read missed what had been acknowledged, or seen, before it began;
- `own write`: a client missed what it had written, or seen, itself.

It knows nothing of the store: no position, no retry and no key is taken on trust.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal, NamedTuple

__all__ = ["Finding", "History", "Read", "Write", "check"]


@dataclass(frozen=True, slots=True)
class Write:
    """
    One append.

    :ivar values: what it wrote, unique in the whole history.
    :ivar outcome: `done` is acknowledged; `refused` means that nothing was written.
    :ivar positions: where its values stand, as it was told.
    :ivar seen: of an update, the value that it was made of; None if there was none before.
    """

    client: int
    user: str
    began: float
    ended: float
    values: tuple[str, ...]
    outcome: Literal["done", "refused", "unknown"]
    positions: tuple[int, ...] = ()
    update: bool = False
    seen: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """One read: the values that it saw, in order, of all or of those that begin with `prefix`."""

    client: int
    user: str
    began: float
    ended: float
    values: tuple[str, ...]
    prefix: str = ""


@dataclass
class History:
    """Everything that clients did, in the order in which it ended."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)


class Finding(NamedTuple):
    """One thing that no log explains."""

    kind: str
    user: str
    detail: str


def check(history: History, logs: Mapping[str, Sequence[str]]) -> list[Finding]:
    """
    Return what is wrong with a history.

    :param logs: by user: the values of the log at the end, from position 1.
    """
    users = {one.user for one in history.writes} | {one.user for one in history.reads} | {*logs}
    return [
        Finding(kind, user, detail)
        for user in sorted(users)
        for kind, detail in _check_user(
            [one for one in history.writes if one.user == user],
            [one for one in history.reads if one.user == user],
            logs.get(user, ()),
        )
    ]


type _Findings = Iterator[tuple[str, str]]


def _check_user(writes: list[Write], reads: list[Read], log: Sequence[str]) -> _Findings:
    positions = {value: position for position, value in enumerate(log, 1)}
    yield from _check_values(writes, positions, log)
    yield from _check_order(writes, positions)
    yield from _check_updates(writes, positions)
    for prefix in sorted({one.prefix for one in reads}):
        view = [value for value in log if value.startswith(prefix)]
        yield from _check_reads([one for one in reads if one.prefix == prefix], writes, view)


def _check_values(
    writes: list[Write], positions: Mapping[str, int], log: Sequence[str]
) -> _Findings:
    for value, times in Counter(log).items():
        if times > 1:
            yield "doubled", f"{value} is in the log {times} times"
    written = {value for one in writes if one.outcome != "refused" for value in one.values}
    for value in positions:
        if value not in written:
            yield "ghost", f"{value} is in the log, and its write was refused or never sent"
    for one in writes:
        found = [positions.get(value, 0) for value in one.values]
        first = found[0]
        if one.outcome == "done" and found != list(one.positions):
            yield "lost", f"{one.values} was acknowledged at {one.positions} and is at {found}"
        elif any(found) and found != list(range(first, first + len(found))):
            yield "torn", f"{one.values} stand at {found}"


def _check_order(writes: list[Write], positions: Mapping[str, int]) -> _Findings:
    """Find writes that stand behind one that began after they had ended."""
    latest: Write | None = None
    for one in sorted(_landed(writes, positions), key=lambda one: positions[one.values[0]]):
        if latest is not None and _ended(one) < latest.began:
            yield "order", f"{one.values} ended before {latest.values} began, and stands behind it"
        if latest is None or one.began > latest.began:
            latest = one


def _check_updates(writes: list[Write], positions: Mapping[str, int]) -> _Findings:
    """Find updates that were not made of the last state before them."""
    updates = [one for one in _landed(writes, positions) if one.update]
    updates.sort(key=lambda one: positions[one.values[0]])
    before: str | None = None
    for one in updates:
        if one.seen != before:
            yield "lost update", f"{one.values[0]} was made of {one.seen}, after {before}"
        before = one.values[0]


def _check_reads(reads: list[Read], writes: list[Write], view: Sequence[str]) -> _Findings:
    index = {value: number for number, value in enumerate(view)}
    writer = {value: one for one in writes for value in one.values}
    # A length that somebody knew of, and when: by having written up to it, or by having seen it.
    known = [
        (one.ended, index[value] + 1, one.client)
        for one in writes
        if one.outcome == "done"
        for value in one.values
        if value in index
    ]
    known += [(one.ended, len(one.values), one.client) for one in reads]
    known.sort()
    ends = [ended for ended, *_ in known]
    longest = _running_maximum(length for _, length, _ in known)
    own = {
        client: [(ended, length) for ended, length, by in known if by == client]
        for client in {client for *_, client in known}
    }
    for one in reads:
        length = len(one.values)
        if list(one.values) != list(view[:length]):
            yield "never was", f"a read saw {length} values, the last {one.values[-1:]}"
            continue
        early = [value for value in one.values if _began(writer, value) > one.ended]
        if early:
            yield "never was", f"a read saw {early[0]} before it was written"
        due = bisect_left(ends, one.began)
        if due and longest[due - 1] > length:
            mine = [size for ended, size in own[one.client] if ended < one.began]
            kind = "own write" if max(mine, default=0) > length else "stale"
            yield kind, f"a read saw {length} values where {longest[due - 1]} were known"


def _landed(writes: list[Write], positions: Mapping[str, int]) -> list[Write]:
    return [one for one in writes if one.values[0] in positions]


def _ended(one: Write) -> float:
    """Return by when a write had happened; one that is not acknowledged may come late."""
    return one.ended if one.outcome == "done" else inf


def _began(writer: Mapping[str, Write], value: str) -> float:
    return writer[value].began if value in writer else -inf


def _running_maximum(numbers: Iterable[int]) -> list[int]:
    found: list[int] = []
    for number in numbers:
        found.append(max(number, found[-1]) if found else number)
    return found
