"""
Verify many users in several processes.

Hashing and replaying are CPU work in Python, and one Python process uses one processor. Each worker
process opens a store of its own and verifies some users at a time. It gets the anchored heads of
these users with them, and reports its progress on a queue.
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
_POLL_SECONDS = 0.2
_open_stores = ExitStack()
_progress: SimpleQueue[int]
"""In a worker process: the queue to the main process, with numbers of further events checked."""


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

    :param advance: called with the number of further events checked.
    :raises EventStoreError: the first error of a worker; each other worker ends after the users
        that it is verifying.
    :raises Unavailable: a worker was killed from outside.
    """
    # At least four shares per process, so that a few large logs do not leave other processes idle.
    at_a_time = max(1, min(_USERS_AT_A_TIME, len(users) // (jobs * 4)))
    # Not "fork", because a forked process would inherit the connections of this one.
    context = get_context("spawn")
    progress = context.SimpleQueue()
    results: list[Future[Verified]] = []
    with ProcessPoolExecutor(
        jobs, context, initializer=_initialize_worker, initargs=(progress,)
    ) as workers:
        try:
            with delay_interrupts():
                results = [
                    workers.submit(
                        _verify_users,
                        database,
                        extensions,
                        share,
                        [_restrict(anchor, share) for anchor in anchors],
                    )
                    for share in map(list, batched(users, at_a_time, strict=False))
                ]
            for _ in _poll_until_done(results):
                _drain(progress, advance)
            return sum((result.result() for result in results), start=Verified())
        except BrokenProcessPool:
            # If Ctrl-C killed the worker, the same signal is about to interrupt this process.
            time.sleep(_POLL_SECONDS)
            raise Unavailable(
                "a worker process of verify was killed; run the command again, "
                "with fewer --jobs if memory is short"
            ) from None
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            # A worker that writes to a full queue would wait for ever, and so would this process.
            while any(result.running() for result in results):
                _drain(progress, advance)
                time.sleep(_POLL_SECONDS)
            raise


def _drain(progress: SimpleQueue[int], advance: Callable[[int], object]) -> None:
    """Pass the numbers in the queue on to `advance`."""
    while not progress.empty():
        advance(progress.get())


def _poll_until_done(results: Iterable[Future[Verified]]) -> Iterator[None]:
    """
    Yield every `_POLL_SECONDS`, and once more when the last result is there.

    :raises EventStoreError: the first error of a worker, without waiting for the others.
    """
    running = {*results}
    while running:
        done, running = wait(running, _POLL_SECONDS, FIRST_EXCEPTION)
        for result in done:
            result.result()
        yield


@contextmanager
def delay_interrupts() -> Iterator[None]:
    """
    Hold Ctrl-C back while worker processes start, and raise it again at the end of the block.

    A worker that is interrupted before `_initialize_worker` has run would print a traceback.
    Workers inherit this thread's signal mask, so SIGINT stays blocked in them until then. In this
    process the kernel may still deliver the signal to another thread (the pool's, the progress
    bar's), and Python then calls the handler here. So the handler only records the signal.
    """
    if getsignal(SIGINT) is SIG_IGN:
        # A shell starts background jobs with SIGINT ignored, and the workers inherit that.
        yield
        return
    received: list[int] = []
    handler = signal(SIGINT, lambda number, _: received.append(number))
    pthread_sigmask(SIG_BLOCK, {SIGINT})
    try:
        yield
    finally:
        pthread_sigmask(SIG_UNBLOCK, {SIGINT})
        signal(SIGINT, handler)
    if received:
        raise_signal(SIGINT)


def _restrict(anchor: Anchor, users: Sequence[str]) -> Anchor:
    """Return the anchor with the heads of these users only, because it is sent to a worker."""
    heads = {user: anchor.heads[user] for user in users if user in anchor.heads}
    return Anchor(anchor.taken_at, heads, anchor.signed)


def _initialize_worker(progress: SimpleQueue[int]) -> None:
    """Let Ctrl-C end this worker without a traceback; the main process reports the interrupt."""
    global _progress  # noqa: PLW0603 - an initializer can pass a value on in a global only
    _progress = progress
    if getsignal(SIGINT) is not SIG_IGN:
        signal(SIGINT, SIG_DFL)
    pthread_sigmask(SIG_UNBLOCK, {SIGINT})


@cache
def _store(database: str | None, extensions: str | None) -> EventStore:
    """Return this worker's store, which stays open until the process ends."""
    return _open_stores.enter_context(open_store(database, extensions, worker=True))


def _verify_users(
    database: str | None, extensions: str | None, users: list[str], anchors: list[Anchor]
) -> Verified:
    # Here and not in the initializer, because the executor loses the error of an initializer.
    store = _store(database, extensions)
    # Not `EventStore.verify`, which refuses ids that only tampering puts into a table or an anchor.
    plan = store._plans.verify_users(users, anchors=anchors, seen=_progress.put, listed=True)  # noqa: SLF001 - see the line above
    return store._driver.run(plan)  # noqa: SLF001 - likewise
