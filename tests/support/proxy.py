"""
A TCP proxy between the store and PostgreSQL, which counts round trips and drops messages.

In a run with a pooler (`pooler`) it stands between the store and the pooler.

A round trip begins when the client sends data after the server has sent some.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Proxy", "run_proxy"]

_CHUNK = 65536


class Proxy:
    """
    Forwards each connection on a local TCP port to a Unix socket.

    :param port: None takes a free one; a closed proxy's port stands for its server come back.
    """

    def __init__(self, target: Path, port: int | None = None) -> None:
        self._target = str(target)
        self._listener = socket.create_server(("127.0.0.1", port or 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._server_spoke = True
        self._forgotten: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.port = self._listener.getsockname()[1]
        self.round_trips = 0
        self.lose_reply: Callable[[bytes], bool] = lambda _: False
        """Called with each piece that the server sends; True cuts the connection instead."""
        self.silence: Callable[[bytes], bool] = lambda _: False
        """Called with each piece that the server sends; True drops it and leaves both ends open."""
        self.lose_request: Callable[[bytes], bool] = lambda _: False
        """Called with each piece that the client sends; True cuts the connection instead."""
        threading.Thread(target=self._accept, daemon=True).start()

    def count(self) -> int:
        """Return the number of round trips since the last call."""
        with self._lock:
            round_trips, self.round_trips = self.round_trips, 0
        return round_trips

    def close(self) -> None:
        # Only a shutdown ends accept(); a close would let it take one more connection.
        _cut(self._listener)
        self.cut()

    def cut(self) -> None:
        """Cut all open connections; the proxy still accepts new ones."""
        for pair in self._pairs:
            _cut(*pair)

    def forget(self) -> None:
        """Be silent on the connections that are open now, as a NAT that forgot them."""
        self._forgotten = {client for client, _ in self._pairs}

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
            for source, sink, inspect in (
                (client, server, self._from_client),
                (server, client, self._from_server),
            ):
                threading.Thread(
                    target=self._pump, args=(source, sink, inspect, client), daemon=True
                ).start()

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        inspect: Callable[[bytes], bool],
        client: socket.socket,
    ) -> None:
        while True:
            try:
                data = source.recv(_CHUNK)
                if not data or inspect(data):
                    break
                if sink is client and (client in self._forgotten or self.silence(data)):
                    continue
                sink.sendall(data)
            except OSError:
                break
        _cut(source, sink)

    def _from_client(self, data: bytes) -> bool:
        with self._lock:
            if self._server_spoke:
                self.round_trips += 1
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
def run_proxy(target: Path, port: int | None = None) -> Iterator[Proxy]:
    """Run a proxy before the Unix socket `target`, and close it at the end."""
    proxy = Proxy(target, port)
    try:
        yield proxy
    finally:
        proxy.close()
