"""Full collections of Python wait while a replay holds many rows, and come again afterwards."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from eventstore import AsyncEventStore, EventStore, User
from eventstore.admin import verify
from eventstore.database.garbage import postpone_full_collections
from eventstore.database.plan import Statement
from eventstore.log import read
from projections.apply.replay import Replay

OWN = (500, 7, 3)
pytestmark = pytest.mark.skipif(not gc.get_threshold()[2], reason="this Python has none")


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*OWN)
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(
    "work",
    [
        lambda store: store.verify("alice"),
        lambda store: store.rebuild("alice"),
        lambda store: store.rebuild("alice", check=True),
        lambda store: _as_of(store.user("alice")),
    ],
    ids=["verify", "rebuild", "check", "as_of"],
)
def test_full_collections_wait_while_a_log_is_replayed(
    store: EventStore,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[EventStore], object],
) -> None:
    alice.tasks.create("Buy milk")
    monkeypatch.setattr(read, "EVENTS_AT_ONCE", 1)  # so a single event is a long log
    apply, seen = Replay.apply, list[tuple[int, ...]]()

    def applied(self: Replay, *arguments: object) -> None:
        seen.append(gc.get_threshold())
        apply(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Replay, "apply", applied)
    work(store)

    assert [one[:2] for one in seen] == [OWN[:2]]
    assert seen[0][2] >= 100
    assert gc.get_threshold() == OWN


def _as_of(user: User) -> object:
    (task,) = user.tasks.list()
    return user.tasks.get(task.id, as_of=1)


def test_full_collections_are_rare_from_where_python_has_come_in_counting() -> None:
    for _ in range(150):
        gc.collect(1)
    count = gc.get_count()[2]
    with postpone_full_collections():
        assert gc.get_threshold()[2] >= count + 100
        gc.collect()
        with postpone_full_collections():  # a full one has been, so the next is as far away
            assert gc.get_threshold()[2] <= 150

    assert gc.get_threshold() == OWN


def test_full_collections_come_again_after_the_last_of_works_at_once_and_after_an_error() -> None:
    def work(number: int) -> None:
        for _ in range(200):
            with postpone_full_collections():
                assert gc.get_threshold()[2] >= 100
            if number == 0:
                with pytest.raises(ZeroDivisionError), postpone_full_collections():
                    _ = 1 / 0

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))

    assert gc.get_threshold() == OWN


def test_full_collections_come_again_when_a_work_is_cancelled_and_its_error_is_kept(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Statement("select pg_sleep(20)")
    monkeypatch.setattr(verify, "select_log_page", lambda *_: slow)

    async def run() -> None:
        async with AsyncEventStore.connect(database_url) as store:
            await store.user("alice").tasks.create("Buy milk")
            work = asyncio.create_task(store.verify("alice"))
            async with asyncio.timeout(15):
                while gc.get_threshold() == OWN:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.01)
            work.cancel()
            # The error holds the frames of the call, and so what the call was working on.
            with pytest.raises(asyncio.CancelledError) as raised:
                await work
            assert gc.get_threshold() == OWN
            assert raised.tb is not None

    asyncio.run(run())


def test_a_threshold_that_somebody_sets_meanwhile_stays() -> None:
    with postpone_full_collections():
        gc.set_threshold(600, 8, 9)

    assert gc.get_threshold() == (600, 8, 9)
