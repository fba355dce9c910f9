"""
Do the work of one command in several processes.

Hashing and replaying are CPU work in Python, and one Python process uses one processor. Each worker
process opens a store of its own, does one share of the work after another, and reports its progress
on a queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import batched
from multiprocessing import active_children, get_context
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
from typing import Any, NamedTuple

from eventstore.cli.options import open_store
from eventstore.errors import Unavailable
from eventstore.store.store import EventStore

__all__ = ["Workers", "delay_interrupts", "run_parallel", "shares_of", "start_workers"]

_USERS_AT_A_TIME = 50
_POLL_SECONDS = 0.2
_START_METHOD = "fork"
_open_stores = ExitStack()
_progress: SimpleQueue[int]
"""In a worker process: the queue to the main process, with numbers of further units done."""


class Workers(NamedTuple):
    """
    Running worker processes.

    :ivar progress: what they report.
    """

    pool: ProcessPoolExecutor
    progress: SimpleQueue[int]


@contextmanager
def start_workers(jobs: int) -> Iterator[Workers | None]:
    """
    Start `jobs` worker processes, or none for a single job, and end them after the block.

    Call it before a store is opened.

    :return: None for a single job, which this process does itself.
    """
    if jobs == 1:
        yield None
        return
    # A fork takes no time, while a new process imports for a second or more. A process that was
    # forked with a store open would share its sockets and lack its threads.
    context = get_context(_START_METHOD)
    progress = context.SimpleQueue()
    with ProcessPoolExecutor(
        jobs, context, initializer=_initialize_worker, initargs=(progress,)
    ) as pool:
        with delay_interrupts():
            for _ in range(jobs):
                pool.submit(_idle)
        try:
            yield Workers(pool, progress)
        except BaseException:
            # A worker may wait for a lock, or for room in the queue. What it has not committed is
            # rolled back.
            for worker in active_children():
                worker.terminate()
            raise


def run_parallel[S, R](
    workers: Workers,
    work: Callable[[EventStore, S, Callable[[int], object]], R],
    shares: Sequence[S],
    *,
    database: str | None,
    extensions: str | None,
    advance: Callable[[int], object],
) -> list[R]:
    """
    Do `work` with each share in one of the workers, and return the results in order.

    :param work: a function of a module, because workers import it; its last argument takes the
        number of further units done, and passes it to `advance` in this process.
    :raises EventStoreError: the first error of a worker.
    :raises Unavailable: a worker was killed from outside.
    """
    try:
        results = [
            workers.pool.submit(_do_share, work, database, extensions, share) for share in shares
        ]
        # A pipe holds some kilobytes. A worker with more to report waits until this process reads.
        for _ in _poll_until_done(results):
            while not workers.progress.empty():
                advance(workers.progress.get())
        return [result.result() for result in results]
    except BrokenProcessPool:
        # If Ctrl-C killed the worker, the same signal is about to interrupt this process.
        time.sleep(_POLL_SECONDS)
        raise Unavailable(
            "a worker process was killed; run the command again, with fewer --jobs if memory is "
            "short"
        ) from None


def shares_of(users: Sequence[str], jobs: int) -> list[list[str]]:
    """Return users in shares of 1 to 50 for `jobs` processes, in their order."""
    # At least four for each process, so that a few large logs do not leave other processes idle.
    at_a_time = max(1, min(_USERS_AT_A_TIME, len(users) // (jobs * 4)))
    return [list(share) for share in batched(users, at_a_time, strict=False)]


def _poll_until_done(results: Iterable[Future[Any]]) -> Iterator[None]:
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
    """
    if getsignal(SIGINT) is SIG_IGN:
        # A shell starts background jobs with SIGINT ignored, and the workers inherit that.
        yield
        return
    # Workers inherit this thread's signal mask, so SIGINT stays blocked in them until they unblock
    # it. In this process the kernel may still deliver the signal to another thread (the pool's, the
    # progress bar's), and Python then calls the handler here. So the handler only records it.
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


def _idle() -> None:
    """Do nothing: the executor starts processes when it is given work."""


def _do_share[S, R](
    work: Callable[[EventStore, S, Callable[[int], object]], R],
    database: str | None,
    extensions: str | None,
    share: S,
) -> R:
    # Here and not in the initializer, because the executor loses the error of an initializer.
    return work(_store(database, extensions), share, _progress.put)
