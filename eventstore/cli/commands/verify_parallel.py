"""
Verify many users in several processes: hashing and replaying are Python's work, and one process
has one processor's worth of it.

Each process opens a store of its own and takes some users at a time; what it needs of the anchors
goes with them, and how far it has come is told on a queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import batched
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from signal import (
    SIG_BLOCK,
    SIG_DFL,
    SIG_IGN,
    SIG_UNBLOCK,
    SIGINT,
    getsignal,
    pthread_sigmask,
    raise_signal,
    signal,
)

from eventstore.admin.verify import Verified
from eventstore.cli.options import open_store
from eventstore.errors import Unavailable
from eventstore.log.anchors import Anchor
from eventstore.store.store import EventStore

__all__ = ["delay_interrupts", "verify_parallel"]

_USERS_AT_A_TIME = 50
_MOMENT = 0.2
_open = ExitStack()
_seen: SimpleQueue[int]


def verify_parallel(
    users: Sequence[str],
    anchors: Sequence[Anchor],
    jobs: int,
    *,
    database: str | None,
    extensions: str | None,
    advance: Callable[[int], object],
) -> Verified:
    """
    Verify `users` in `jobs` processes.

    :param advance: called with how many events more are done.
    :raises EventStoreError: as in this process; the others end when they are done with the users
        they have.
    """
    at_a_time = max(1, min(_USERS_AT_A_TIME, len(users) // (jobs * 4)))
    context = get_context("spawn")
    seen = context.SimpleQueue()
    parts: list[Future[Verified]] = []
    with ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(seen,)) as processes:
        try:
            with delay_interrupts():
                parts = [
                    processes.submit(
                        _verify, database, extensions, share, [_part(one, share) for one in anchors]
                    )
                    for share in map(list, batched(users, at_a_time, strict=False))
                ]
            for _ in _until_done(parts):
                _told(seen, advance)
            return sum((part.result() for part in parts), start=Verified())
        except BrokenProcessPool:
            time.sleep(_MOMENT)  # if Ctrl-C ended it, that is on its way to this process too
            raise Unavailable(
                "a process that verified was ended from outside; run it again, "
                "with fewer --jobs if memory is short"
            ) from None
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            while any(part.running() for part in parts):  # a full queue would keep them for ever
                _told(seen, advance)
                time.sleep(_MOMENT)
            raise


def _told(seen: SimpleQueue[int], advance: Callable[[int], object]) -> None:
    while not seen.empty():
        advance(seen.get())


def _until_done(parts: Iterable[Future[Verified]]) -> Iterator[None]:
    """
    Yield every moment, and once after the last part is done.

    :raises EventStoreError: of the first part that failed, at once.
    """
    running = {*parts}
    while running:
        done, running = wait(running, _MOMENT, FIRST_EXCEPTION)
        for part in done:
            part.result()
        yield


@contextmanager
def delay_interrupts() -> Iterator[None]:
    """
    Begin processes that do not hear Ctrl-C before they can end in silence; this one hears it after.

    They inherit this thread's mask. Any other thread (the pool's, the progress bar's) may still be
    given the signal, and Python then runs the handler here: hence a handler that remembers.
    """
    if getsignal(SIGINT) is SIG_IGN:  # as a job in the background has it, and they inherit
        yield
        return
    heard: list[int] = []
    handler = signal(SIGINT, lambda number, _: heard.append(number))
    pthread_sigmask(SIG_BLOCK, {SIGINT})
    try:
        yield
    finally:
        pthread_sigmask(SIG_UNBLOCK, {SIGINT})
        signal(SIGINT, handler)
    if heard:
        raise_signal(SIGINT)


def _part(anchor: Anchor, users: Sequence[str]) -> Anchor:
    heads = {user: anchor.heads[user] for user in users if user in anchor.heads}
    return Anchor(anchor.taken_at, heads, anchor.signed)


def _begin(seen: SimpleQueue[int]) -> None:
    """Let this process end in silence: the one that began it says what there is to say."""
    global _seen  # noqa: PLW0603 - what a process is begun with has no other place
    _seen = seen
    if getsignal(SIGINT) is not SIG_IGN:  # as a job in the background has it
        signal(SIGINT, SIG_DFL)
    pthread_sigmask(SIG_UNBLOCK, {SIGINT})


@cache
def _store(database: str | None, extensions: str | None) -> EventStore:
    """Return this process's store, open until the process ends."""
    return _open.enter_context(open_store(database, extensions, helper=True))


def _verify(
    database: str | None, extensions: str | None, users: list[str], anchors: list[Anchor]
) -> Verified:
    store = _store(database, extensions)  # here, and not at the start: its error goes to the caller
    plan = store._plans.verify_users(users, anchors=anchors, seen=_seen.put, listed=True)  # noqa: SLF001 - the ids are tables' and anchors', and need not be what the method takes
    return store._driver.run(plan)  # noqa: SLF001 - the same
