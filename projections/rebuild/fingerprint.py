"""What tells one release's rebuild from another's: its projectors and the tables that they keep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from types import CodeType

from projections.projector import Projections

__all__ = ["fingerprint"]


def fingerprint(projections: Projections) -> str:
    """
    Return a digest of projectors and tables: another one where a rebuild would write other rows.

    It covers each table's columns with their types, and each projector's events and code. Of what
    a projector calls, it covers the names only. Another version of Python gives another digest too.
    """
    described = [
        [
            projections.shapes_by_model[one.table].name,
            {name: repr(kind) for name, kind in _columns(projections, one.table)},
            [f"{event.__module__}.{event.__qualname__}" for event in one.events],
            one.stream_kind,
            list(_described(getattr(one.project, "__code__", None))),
        ]
        for one in projections.projectors
    ]
    return sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _columns(projections: Projections, table: type) -> Iterator[tuple[str, object]]:
    for column in projections.shapes_by_model[table].table.columns:
        yield str(column.name), column.type


def _described(code: CodeType | None) -> Iterator[str]:
    """Yield what a function does, without the place where it stands."""
    if code is None:  # a callable object
        return
    yield code.co_code.hex()
    yield " ".join(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _described(constant)
        elif isinstance(constant, frozenset):  # of which each process has an order of its own
            yield repr(sorted(map(repr, constant)))
        else:
            yield repr(constant)
