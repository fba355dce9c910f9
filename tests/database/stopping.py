"""Requests that are interrupted while they are handed to libpq."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest

import eventstore.database.driver.pipeline
from eventstore.database.driver.parameters import Parameters, encode

__all__ = ["stopped_after"]


@contextmanager
def stopped_after(statements: int, error: type[BaseException]) -> Iterator[None]:
    """Raise `error` in every request once it has handed so many of its statements to libpq."""

    def encode_some(parameter_lists: Iterable[Sequence[object]]) -> Iterator[Parameters]:
        yield from encode(parameter_lists)[:statements]
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eventstore.database.driver.pipeline, "encode", encode_some)
        yield
