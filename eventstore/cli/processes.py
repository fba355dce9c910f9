"""
Verify many users in several processes: hashing and replaying are Python's work, and one process
has one processor's worth of it.

Each process opens a store of its own and takes some users at a time; what it needs of the anchors
goes with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import batched
from multiprocessing import get_context
from signal import SIG_BLOCK, SIG_DFL, SIG_UNBLOCK, SIGINT, pthread_sigmask, signal

from eventstore.cli.options import opened
from eventstore.log.anchor import Anchor
from eventstore.store.store import EventStore
from projections.verify import Verified

__all__ = ["verify_in_processes"]

_USERS_AT_A_TIME = 50
_open = ExitStack()
_store: EventStore | None = None


def verify_in_processes(
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

    :param advance: called with how many users more are done.
    :raises EventStoreError: as in this process; the others end with it.
    """
    at_a_time = max(1, min(_USERS_AT_A_TIME, len(users) // (jobs * 4)))
    shares = [list(some) for some in batched(users, at_a_time, strict=False)]
    done = Verified()
    with ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=partial(_begin, database, extensions)
    ) as processes:
        tasks = [(share, [_part(anchor, share) for anchor in anchors]) for share in shares]
        with _interrupts_later():
            founds = processes.map(_verify, tasks)
        for share, found in zip(shares, founds, strict=True):
            done += found
            advance(len(share))
    return done


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Begin processes that do not hear Ctrl-C before they can end in silence; this one hears it."""
    pthread_sigmask(SIG_BLOCK, {SIGINT})
    try:
        yield
    finally:
        pthread_sigmask(SIG_UNBLOCK, {SIGINT})


def _part(anchor: Anchor, users: Sequence[str]) -> Anchor:
    heads = {user: anchor.heads[user] for user in users if user in anchor.heads}
    return Anchor(anchor.taken_at, heads, anchor.signed)


def _begin(database: str | None, extensions: str | None) -> None:
    """Open this process's store, until the process ends."""
    signal(SIGINT, SIG_DFL)
    pthread_sigmask(SIG_UNBLOCK, {SIGINT})
    global _store  # noqa: PLW0603 - what an initializer has to leave it in
    _store = _open.enter_context(opened(database, extensions))


def _verify(task: tuple[list[str], list[Anchor]]) -> Verified:
    users, anchors = task
    if _store is None:
        raise RuntimeError("the process was not begun")
    found = (_store.verify(user, anchors=anchors) for user in users)
    return sum(found, start=Verified())
