"""
A TCP proxy between the store and PostgreSQL, so that a test can count, cut and drop.

With a pooler (`pooler`) it stands between the store and that.

`turns` counts how often the client spoke after the server had: the round trips it paid for.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Proxy", "proxied"]

_CHUNK = 65536


class Proxy:
    """Forwards each connection on a local port to a Unix socket."""

    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._server_spoke = True
        self._lock = threading.Lock()
        self.port = self._listener.getsockname()[1]
        self.turns = 0
        self.lose_reply: Callable[[bytes], bool] = lambda _: False
        """Asked for each piece the server sends: True cuts the connection instead."""
        self.silence: Callable[[bytes], bool] = lambda _: False
        """Asked for each piece the server sends: True swallows it, and nothing is closed."""
        self.lose_request: Callable[[bytes], bool] = lambda _: False
        """Asked for each piece the client sends: True cuts the connection instead."""
        threading.Thread(target=self._accept, daemon=True).start()

    def count(self) -> int:
        """Return the turns since the last count."""
        with self._lock:
            turns, self.turns = self.turns, 0
        return turns

    def close(self) -> None:
        _cut(self._listener)  # without shutdown the waiting accept would take one more
        self.cut()

    def cut(self) -> None:
        """Cut every connection there is; new ones are taken."""
        for pair in self._pairs:
            _cut(*pair)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append((client, server))
            for source, sink, heard in (
                (client, server, self._from_client),
                (server, client, self._from_server),
            ):
                threading.Thread(
                    target=self._pump, args=(source, sink, heard, client), daemon=True
                ).start()

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        heard: Callable[[bytes], bool],
        client: socket.socket,
    ) -> None:
        while True:
            try:
                data = source.recv(_CHUNK)
                if not data or heard(data):
                    break
                if sink is client and self.silence(data):
                    continue
                sink.sendall(data)
            except OSError:
                break
        _cut(source, sink)

    def _from_client(self, data: bytes) -> bool:
        with self._lock:
            if self._server_spoke:
                self.turns += 1
                self._server_spoke = False
        return self.lose_request(data)

    def _from_server(self, data: bytes) -> bool:
        with self._lock:
            self._server_spoke = True
        return self.lose_reply(data)


def _cut(*sockets: socket.socket) -> None:
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
        finally:
            one.close()


@contextmanager
def proxied(target: Path) -> Iterator[Proxy]:
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
