"""The checker finds every kind of fault that is put into a history, and nothing in a right one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.history import History, Read, Write, check

type Logs = dict[str, list[str]]


def history_of(seed: int) -> tuple[History, Logs]:
    """Return what clients of a right store do and see: each call takes effect at one moment."""
    rng = random.Random(seed)
    history, log, last = History(), list[str](), None
    now = 0.0
    for number in range(60):
        now += 1
        client = rng.randrange(4)
        # Calls overlap: one begins before, and ends after, the moments of its neighbours.
        began, ended = now - rng.uniform(0, 3), now + rng.uniform(0, 3)
        kind = rng.choice(["post", "pair", "update", "read", "read messages", "unknown", "refused"])
        if kind.startswith("read"):
            prefix = "m" if kind == "read messages" else ""
            seen = tuple(one for one in log if one.startswith(prefix))
            history.reads.append(Read(client, "alice", began, ended, seen, prefix))
            continue
        values = (f"m{number}", f"t{number}") if kind == "pair" else (f"m{number}",)
        update = kind == "update"
        values = (f"u{number}",) if update else values
        lands = kind != "refused" and (kind != "unknown" or rng.random() < 0.5)
        if lands:
            log += values
        outcome = kind if kind in {"unknown", "refused"} else "done"
        positions = (
            tuple(range(len(log) - len(values) + 1, len(log) + 1)) if outcome == "done" else ()
        )
        history.writes.append(
            Write(client, "alice", began, ended, values, outcome, positions, update, last)  # type: ignore[arg-type]  # one of the three
        )
        last = values[0] if update and lands else last
    return history, {"alice": log}


@pytest.mark.parametrize("seed", range(20))
def test_a_right_history_is_explained(seed: int) -> None:
    assert check(*history_of(seed)) == []


def done(history: History, *, update: bool = False) -> list[Write]:
    return [one for one in history.writes if one.outcome == "done" and one.update == update]


def lose(history: History, log: list[str]) -> None:
    log.remove(done(history)[-1].values[-1])


def double(history: History, log: list[str]) -> None:
    log.append(done(history)[0].values[0])


def write_what_was_refused(history: History, log: list[str]) -> None:
    log.append(next(one for one in history.writes if one.outcome == "refused").values[0])


def tear(history: History, log: list[str]) -> None:
    pair = next(one for one in history.writes if len(one.values) > 1)
    log.remove(pair.values[1])
    log.append(pair.values[1])


def swap(history: History, log: list[str]) -> None:
    log[0], log[-1] = log[-1], log[0]


def update_twice(history: History, log: list[str]) -> None:
    """Let two updates be made of one state, as without the check of the version."""
    first, second = done(history, update=True)[:2]
    history.writes[history.writes.index(second)] = replace(second, seen=first.seen)


def see_a_gap(history: History, log: list[str]) -> None:
    """Let a read see a later value without an earlier one, as of rows that are half-written."""
    read = next(one for one in history.reads if len(one.values) > 2)
    history.reads[history.reads.index(read)] = replace(read, values=read.values[1:])


def see_what_was_rolled_back(history: History, log: list[str]) -> None:
    refused = next(one for one in history.writes if one.outcome == "refused")
    read = history.reads[-1]
    history.reads[-1] = replace(read, values=(*read.values, refused.values[0]))


def see_the_future(history: History, log: list[str]) -> None:
    history.reads.append(Read(0, "alice", -9, -8, tuple(log)))


def miss_anothers(history: History, log: list[str]) -> None:
    """Let a client that did nothing else read an old state, as from a replica."""
    history.reads.append(Read(99, "alice", 1000, 1001, tuple(log[:-1])))


def miss_its_own(history: History, log: list[str]) -> None:
    last = done(history)[-1]
    seen = tuple(log[: last.positions[0] - 1])
    history.reads.append(Read(last.client, "alice", 1000, 1001, seen))


def see_less_than_before(history: History, log: list[str]) -> None:
    history.writes[:] = [replace(one, outcome="unknown") for one in history.writes]
    history.reads[:] = [
        Read(7, "alice", 1000, 1001, tuple(log)),
        Read(8, "alice", 1002, 1003, tuple(log[:-1])),
    ]


FAULTS: dict[Callable[[History, list[str]], None], str] = {
    lose: "lost",
    double: "doubled",
    write_what_was_refused: "ghost",
    tear: "torn",
    swap: "order",
    update_twice: "lost update",
    see_a_gap: "never was",
    see_what_was_rolled_back: "never was",
    see_the_future: "never was",
    miss_anothers: "stale",
    see_less_than_before: "stale",
    miss_its_own: "own write",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("seed", range(5))
def test_a_fault_that_is_put_in_is_found(
    fault: Callable[[History, list[str]], None], seed: int
) -> None:
    history, logs = history_of(seed)

    fault(history, logs["alice"])

    found = {one.kind for one in check(history, logs)}
    # An acknowledged tear is told as a loss, because its positions are wrong too.
    assert FAULTS[fault] in found or (fault is tear and "lost" in found)
