"""A network that loses an append or its reply, in the way that the store's driver sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

import eventstore.store.units.unit_of_work
from eventstore import ConnectionLost
from eventstore.database.errors import AlreadyAppended
from eventstore.database.plan import Plan, Statement
from eventstore.log.append import Appended, append
from eventstore.log.append_request import AppendRequest


class Network:
    """
    Stands between the commands of a store and its driver.

    :ivar attempts: of each append that was sent since the last loss: whether it said it is a retry.
    :ivar late: a request that was sent and has not arrived yet.
    :ivar refused: whether the late request, when it arrived, was refused as appended before.
    """

    def __init__(self) -> None:
        self.attempts: list[bool] = []
        self.late: Any = None
        self.refused: bool | None = None
        self._next: Callable[[AppendRequest, Sequence[Statement], bool], Plan[Any]] | None = None
        self._reads: Sequence[Statement] = ()

    def lose_reply(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Commit the next append and lose the connection; then `meanwhile` happens."""

        def commit_and_lose(
            request: AppendRequest, changes: Sequence[Statement], retry: bool
        ) -> Plan[Any]:
            yield from append(request, changes, self._reads, retry=retry)
            meanwhile()
            raise ConnectionLost("after the commit")

        self.attempts, self._next = [], commit_and_lose

    def hold_request(self) -> None:
        """Lose the connection on which the next append is sent; the append is still on its way."""

        def hold(request: AppendRequest, changes: Sequence[Statement], retry: bool) -> Plan[Any]:
            self.late = next(append(request, changes, self._reads, retry=retry))
            raise ConnectionLost("before the request arrived")
            yield  # of a generator

        self.attempts, self._next = [], hold

    def deliver_late(self) -> None:
        """Let the late request arrive just before the next append."""

        def deliver(request: AppendRequest, changes: Sequence[Statement], retry: bool) -> Plan[Any]:
            try:
                yield self.late
                self.refused = False
            except AlreadyAppended:
                self.refused = True
            return (yield from append(request, changes, self._reads, retry=retry))

        self._next = deliver

    def send(
        self,
        request: AppendRequest,
        changes: Sequence[Statement] = (),
        reads: Sequence[Statement] = (),
        *,
        retry: bool = False,
    ) -> Plan[Appended]:
        """Append in the place of `append`."""
        self.attempts.append(retry)
        self._reads = reads
        once, self._next = self._next, None
        if once is not None:
            return once(request, changes, retry)
        return append(request, changes, self._reads, retry=retry)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """The network of every store of this process."""
    network = Network()
    monkeypatch.setattr(eventstore.store.units.unit_of_work, "append", network.send)
    return network
