"""
Measure several sides in turn, so that a noisy minute affects all of them.

A side is the floor or the code that is compared with it. A round runs every side once, the floor
first. The ratio of a round compares medians that were measured within seconds of each other, and
the ratio of a figure is the median of the ratios of its rounds.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median, quantiles
from types import FrameType

__all__ = [
    "Figure",
    "Samples",
    "Side",
    "Size",
    "count_python_calls",
    "run_in_turn",
    "time_calls",
]

_FEWEST_ROUNDS = 3
"""Rounds that even a slow machine runs: a median of fewer is one lucky or unlucky round."""


@dataclass(frozen=True, slots=True)
class Size:
    """A number of repetitions or rows, and the smaller number for `--quick`."""

    full: int
    quick: int

    def choose(self, *, quick: bool) -> int:
        """Return the number for a quick or a full run."""
        return self.quick if quick else self.full


@dataclass(frozen=True, slots=True)
class Samples:
    """
    The times of one side in one round.

    :ivar seconds: the time of each operation.
    :ivar cpu_seconds: CPU time of this process for one operation, on average; None if another
        process did the work.
    """

    seconds: list[float]
    cpu_seconds: float | None = None


type Side = Callable[[], Samples]
"""Runs one side of a round; preparations are not part of the times it returns."""


@dataclass(frozen=True, slots=True)
class Figure:
    """
    One measurement: the rounds of the measured side and of its floor.

    :ivar floor_name: what the floor does.
    :ivar items: how many items one operation handles.
    :ivar item: the plural noun for items, such as `events`.
    :ivar floor: the rounds of the floor.
    :ivar measured: the rounds of the measured side; each belongs to the round of `floor` at the
        same place in the list.
    """

    name: str
    floor_name: str
    items: int
    item: str
    floor: Sequence[Samples]
    measured: Sequence[Samples]

    @property
    def ratios(self) -> list[float]:
        """For each round: the median time of the measured side divided by that of the floor."""
        return [
            median(measured.seconds) / median(floor.seconds)
            for floor, measured in zip(self.floor, self.measured, strict=True)
        ]

    @property
    def ratio(self) -> float:
        """The median of the ratios of the rounds, which is the result of the figure."""
        return median(self.ratios)

    @property
    def quiet_ratio(self) -> float:
        """The ratio at p10: noise only adds time, so a busy machine affects this ratio least."""
        return percentile(self.measured, 10) / percentile(self.floor, 10)

    @property
    def items_per_second(self) -> float:
        """Items that the measured side handles per second, by its median time."""
        return self.items / percentile(self.measured, 50)

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the client for one operation of the measured side, median of the rounds."""
        return median(samples.cpu_seconds or 0.0 for samples in self.measured)


def percentile(rounds: Sequence[Samples], rank: int) -> float:
    """Return the time that `rank` percent of all operations in `rounds` did not exceed."""
    seconds = list(chain.from_iterable(samples.seconds for samples in rounds))
    if len(seconds) == 1:
        return seconds[0]
    return quantiles(seconds, n=100, method="inclusive")[rank - 1]


def time_calls(operation: Callable[[], object], count: int = 1) -> Samples:
    """Call `operation` `count` times and return the time of each call."""
    # Otherwise this side would spend time on collecting the garbage of the other side.
    gc.collect()
    seconds = []
    cpu = time.process_time()
    for _ in range(count):
        start = time.perf_counter()
        operation()
        seconds.append(time.perf_counter() - start)
    return Samples(seconds, (time.process_time() - cpu) / count)


def count_python_calls(operation: Callable[[], object]) -> int:
    """
    Return how many functions in Python an operation enters, in this thread.

    A generator counts each time it is resumed. The number is the same on a busy machine, so it
    shows what a change did where times do not.
    """
    calls = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        operation()
    finally:
        sys.setprofile(before)
    return calls


def run_in_turn(*sides: Side, rounds: int, within_seconds: float) -> list[list[Samples]]:
    """
    Run all sides once to warm up, then `rounds` rounds of all sides, one after another.

    :param within_seconds: no round starts later, except that there are at least three.
    :return: the rounds of each side, in the order of `sides`.
    """
    for side in sides:
        side()
    deadline = time.monotonic() + within_seconds
    results: list[list[Samples]] = [[] for _ in sides]
    for number in range(rounds):
        if number >= _FEWEST_ROUNDS and time.monotonic() > deadline:
            break
        for side, samples in zip(sides, results, strict=True):
            samples.append(side())
    return results
