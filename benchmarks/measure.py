"""
Measure sides in turn, so that a noisy minute hits all of them.

A round runs every side once, floor first. A round's ratio compares medians that were taken within
seconds of each other; a figure's ratio is the median of its rounds' ratios.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median, quantiles

__all__ = ["Figure", "Samples", "Side", "Size", "in_turn", "timed"]

_FEWEST_ROUNDS = 3
"""Below this a median is one lucky or unlucky round; a slow machine gets at least so many."""


@dataclass(frozen=True, slots=True)
class Size:
    """A number that `--quick` makes smaller."""

    full: int
    quick: int

    def of(self, *, quick: bool) -> int:
        """Return the number for this run."""
        return self.quick if quick else self.full


@dataclass(frozen=True, slots=True)
class Samples:
    """
    One side's times in one round.

    :ivar seconds: one for each operation.
    :ivar cpu_seconds: of this process, for one operation on average; None if another did the work.
    """

    seconds: list[float]
    cpu_seconds: float | None = None


type Side = Callable[[], Samples]
"""Runs one side of a round; what it must prepare first it does outside its times."""


@dataclass(frozen=True, slots=True)
class Figure:
    """
    What was measured, and against what.

    :ivar floor_name: what the floor does.
    :ivar items: how many `item`s one operation handles.
    :ivar ours: the rounds of the measured side; `floor` likewise, round by round.
    """

    name: str
    floor_name: str
    items: int
    item: str
    floor: Sequence[Samples]
    ours: Sequence[Samples]

    @property
    def ratios(self) -> list[float]:
        """Ours by the floor, of each round's medians."""
        return [
            median(ours.seconds) / median(floor.seconds)
            for floor, ours in zip(self.floor, self.ours, strict=True)
        ]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios: what the figure says."""
        return median(self.ratios)

    @property
    def quiet_ratio(self) -> float:
        """The same at p10: noise only ever adds, so a busy machine disturbs this least."""
        return percentile(self.ours, 10) / percentile(self.floor, 10)

    @property
    def items_per_second(self) -> float:
        """How many items the measured side handles at its median pace."""
        return self.items / percentile(self.ours, 50)

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the client for one operation of the measured side; the median round's."""
        return median(one.cpu_seconds or 0.0 for one in self.ours)


def percentile(rounds: Sequence[Samples], rank: int) -> float:
    """Return the time that `rank` percent of all operations in `rounds` did not exceed."""
    every = list(chain.from_iterable(one.seconds for one in rounds))
    if len(every) == 1:
        return every[0]
    return quantiles(every, n=100, method="inclusive")[rank - 1]


def timed(operation: Callable[[], object], count: int = 1) -> Samples:
    """Run `operation` so many times and take the time of each."""
    gc.collect()  # what the other side left behind is not ours to pay for
    seconds = []
    cpu = time.process_time()
    for _ in range(count):
        start = time.perf_counter()
        operation()
        seconds.append(time.perf_counter() - start)
    return Samples(seconds, (time.process_time() - cpu) / count)


def in_turn(*sides: Side, rounds: int, within_seconds: float) -> list[list[Samples]]:
    """
    Run all sides once to warm up, then `rounds` times one after another.

    :param within_seconds: no further round starts later than this, once there are enough.
    :return: the rounds of each side, in the order given.
    """
    for side in sides:
        side()
    deadline = time.monotonic() + within_seconds
    done: list[list[Samples]] = [[] for _ in sides]
    for number in range(rounds):
        if number >= _FEWEST_ROUNDS and time.monotonic() > deadline:
            break
        for side, samples in zip(sides, done, strict=True):
            samples.append(side())
    return done
