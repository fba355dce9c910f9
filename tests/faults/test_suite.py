"""A short run of the fault suite, and one on a store that is broken on purpose."""

from __future__ import annotations

from typing import Any

import pytest

import eventstore.store.units.unit_of_work
from eventstore.log.append import append
from tests.faults.crowd import run_crowd
from tests.faults.suite import run_kind
from tests.support.server import Server, run_server

FAULTS = 3


@pytest.mark.parametrize("kind", ["reply dropped", "commit terminated"])
def test_nothing_is_lost_doubled_or_late_under_faults(server: Server, kind: str) -> None:
    figures = run_kind(server, kind, FAULTS, seed=1)

    assert figures.problems == []
    assert figures.faults == FAULTS
    assert figures.acknowledged >= FAULTS


def test_the_suite_finds_a_store_that_forgets_its_first_attempt(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget_the_first_attempt(*arguments: Any, retry: bool = False, **options: Any) -> Any:
        return append(*arguments, **options)

    monkeypatch.setattr(eventstore.store.units.unit_of_work, "append", forget_the_first_attempt)

    figures = run_kind(server, "reply dropped", 10 * FAULTS, seed=1)

    # The second attempt is refused by the ids of its rows, and its client told that nothing was
    # written; but the first was.
    assert figures.inconsistent["ghost"] > 0


@pytest.mark.parametrize("threads", [False, True], ids=["tasks", "threads"])
def test_a_crowd_is_answered_over_a_crash_and_sees_its_own_alone(*, threads: bool) -> None:
    with run_server() as server:
        figures = run_crowd(server, server.create_database(), users=12, threads=threads)

    assert figures.well, figures
    assert figures.answered == 24
