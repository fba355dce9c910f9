"""
Faults on demand: what an application does when the network or the server fails.

Each is a block. A reply that should be lost and is not fails the block, because a test whose fault
never happened says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from eventstore.testing.proxy import Proxy, target_of, url_through

__all__ = ["Faults"]


class Faults:
    """
    Makes the network between an application and its database fail, by a proxy between them.

    :param url: of the database; without TLS, which the proxy could not read.

    :ivar url: the URL of the same database through the proxy.
    :ivar proxy: for what has no method here: `cut`, `forget`, `silence`, `count` of round trips.
    """

    def __init__(self, url: str) -> None:
        self.proxy = Proxy(target_of(url))
        self.url = url_through(self.proxy, url)

    @contextmanager
    def lose_commit_reply(self, times: int = 1) -> Iterator[None]:
        """
        Commit the next append in the block, and cut the connection instead of its reply.

        The store sends it again and finds it, so the application notices nothing.

        :param times: so many appends.
        :raises AssertionError: fewer replies were lost, because fewer appends were committed.
        """
        with self._losing(self.proxy.lose_commit_reply, times):
            yield

    @contextmanager
    def outcome_unknown(self) -> Iterator[None]:
        """
        Commit the next append in the block, lose its reply, and be away until the block ends.

        The store can ask nobody, and raises `OutcomeUnknown` once its time for retries is over.

        :raises AssertionError: no append was committed.
        """
        self.proxy.after_loss = self.proxy.close
        try:
            with self._losing(self.proxy.lose_commit_reply, 1):
                yield
        finally:
            self.proxy.after_loss = lambda: None
            self.proxy.close()
            self.proxy.listen()

    @contextmanager
    def lose_append(self, times: int = 1) -> Iterator[None]:
        """
        Cut the connection before the next append in the block reaches the server.

        :param times: so many, each retry among them.
        :raises AssertionError: fewer appends were sent.
        """
        with self._losing(self.proxy.lose_append, times):
            yield

    @contextmanager
    def server_down(self) -> Iterator[None]:
        """Refuse connections and cut the open ones, as a server that restarts, until the end."""
        self.proxy.close()
        try:
            yield
        finally:
            self.proxy.listen()

    def close(self) -> None:
        """Close the proxy, and with it the connections through it."""
        self.proxy.close()

    @contextmanager
    def _losing(self, lose: Callable[[int], None], times: int) -> Iterator[None]:
        before = self.proxy.lost
        lose(times)
        try:
            yield
        finally:
            lose(0)
        lost = self.proxy.lost - before
        if lost < times:
            raise AssertionError(
                f"{lost} of {times} appends were lost; does the block append that often, on a "
                "store that was connected to the URL of the faults?"
            )
