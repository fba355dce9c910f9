"""
A TCP proxy before PostgreSQL or a pooler, which counts round trips and makes the network fail.

It forwards each connection, and can lose what one side sends, be silent, cut, or be away. It reads
what passes only so far that it knows the reply to an append, so a connection must not be encrypted
(`url_through`).

A round trip begins when the client sends data after the server has sent some.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict

__all__ = ["Proxy", "run_proxy", "target_of", "url_of", "url_through"]

_CHUNK = 65536
_CLOSE_WITH_RESET = struct.pack("ii", 1, 0)
# The name under which it is prepared, if it is, and the beginning of the SQL.
_APPEND = re.compile(rb"(eventstore_\d+)?\0select eventstore\.append_events?\(")
_ENDS_IDLE = b"Z\0\0\0\5I"
_ERROR = b"SERROR\0"
_ENDING = len(_ERROR)

type Target = Path | str | tuple[str, int]
"""A Unix socket, or host and port."""


@dataclass(eq=False)
class _Pair:
    """
    A connection of a client and the one to the server that belongs to it.

    :ivar appends: the names under which statements that append are prepared on it.
    :ivar appending: whether the server is to answer an append.
    :ivar reply: the end of what the server has answered so far.
    :ivar refused: whether there was an error in it.
    :ivar resetting: whether the client is to get a RST.
    """

    client: socket.socket
    server: socket.socket
    appends: set[bytes] = field(default_factory=set)
    appending: bool = False
    reply: bytes = b""
    refused: bool = False
    resetting: bool = False

    def note_request(self, data: bytes) -> None:
        """Find out whether a request appends."""
        found = _APPEND.findall(data)
        self.appends.update(name for name in found if name)
        self.reply, self.refused = b"", False
        self.appending = bool(found) or any(b"\0" + one + b"\0" in data for one in self.appends)

    def reset(self) -> None:
        """Have the connection end with a RST."""
        self.resetting = True
        try:
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_WITH_RESET)
            # It sends nothing and ends a recv(), which would keep the socket open after a close.
            self.client.shutdown(socket.SHUT_RD)
        except OSError:  # it has ended
            return

    def end(self) -> None:
        """Close both sockets."""
        if self.resetting:
            self.client.close()
        _cut(self.client, self.server)

    def committed(self, data: bytes) -> bool:
        """Tell whether a piece of a reply is the one that says that an append is committed."""
        # PostgreSQL sends an error at once, and the end of the reply in a piece of its own.
        self.reply = self.reply[-_ENDING:] + data
        self.refused = self.refused or _ERROR in self.reply
        return self.appending and self.reply.endswith(_ENDS_IDLE) and not self.refused


class Proxy:
    """
    Forwards each connection on a local TCP port to a server.

    :param target: the server: its Unix socket, or host and port.
    :param port: None takes a free one; a closed proxy's port stands for its server come back.

    :ivar lost: how many appends or replies to appends `lose_append` and `lose_commit_reply` lost.
    """

    def __init__(self, target: Target, port: int | None = None) -> None:
        self._target = target
        self._pairs: set[_Pair] = set()
        self._server_spoke = True
        self._forgotten: set[_Pair] = set()
        self._lock = threading.Lock()
        self._appends_to_lose = 0
        self._replies_to_lose = 0
        self.lost = 0
        self.round_trips = 0
        self.lose_reply: Callable[[bytes], bool] = lambda _: False
        """Called with each piece that the server sends; True cuts the connection instead."""
        self.silence: Callable[[bytes], bool] = lambda _: False
        """Called with each piece that the server sends; True drops it and leaves both ends open."""
        self.after_loss: Callable[[], object] = lambda: None
        """Called when the reply to an append was lost."""
        self.lose_request: Callable[[bytes], bool] = lambda _: False
        """Called with each piece that the client sends; True cuts the connection instead."""
        self._listener = self._listen(port or 0)
        self.port: int = self._listener.getsockname()[1]

    def count(self) -> int:
        """Return the number of round trips since the last call."""
        with self._lock:
            round_trips, self.round_trips = self.round_trips, 0
        return round_trips

    def lose_append(self, times: int = 1) -> None:
        """Cut the connection instead of sending an append; so it is with the next `times`."""
        with self._lock:
            self._appends_to_lose = times

    def lose_commit_reply(self, times: int = 1) -> None:
        """Cut the connection instead of the reply to an append that is committed."""
        with self._lock:
            self._replies_to_lose = times

    def close(self) -> None:
        """Accept no more connections, and cut those that are open; the server seems to be away."""
        # Only a shutdown ends accept(); a close would let it take one more connection.
        _cut(self._listener)
        self.cut()

    def listen(self) -> None:
        """Accept connections again, on the same port."""
        self._listener = self._listen(self.port)

    def cut(self, *, reset: bool = False) -> int:
        """
        Cut all open connections; the proxy still accepts new ones.

        :param reset: the client gets a RST, as from a firewall, instead of the end of what is sent.
        :return: how many they were.
        """
        pairs = self._open_pairs()
        for pair in pairs:
            if reset:
                pair.reset()
            else:
                _cut(pair.client, pair.server)
        return len(pairs)

    def forget(self) -> int:
        """Be silent on the connections that are open now, as a NAT that forgot them; count them."""
        new = self._open_pairs() - self._forgotten
        self._forgotten |= new
        return len(new)

    def _open_pairs(self) -> set[_Pair]:
        with self._lock:
            return set(self._pairs)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = _connect(self._target)
            except OSError:  # the server is away, and the proxy seems to be so
                _cut(client)
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.add(pair)
            for pump in (self._pump_requests, self._pump_replies):
                threading.Thread(target=self._run, args=(pump, pair), daemon=True).start()

    def _run(self, pump: Callable[[_Pair], None], pair: _Pair) -> None:
        try:
            pump(pair)
        except OSError:
            pass
        finally:
            pair.end()
            with self._lock:
                self._pairs.discard(pair)
                self._forgotten.discard(pair)

    def _pump_requests(self, pair: _Pair) -> None:
        while (data := pair.client.recv(_CHUNK)) and not self._loses_request(data, pair):
            pair.server.sendall(data)

    def _pump_replies(self, pair: _Pair) -> None:
        while (data := pair.server.recv(_CHUNK)) and not self._loses_reply(data, pair):
            if pair not in self._forgotten and not self.silence(data):
                pair.client.sendall(data)

    def _loses_request(self, data: bytes, pair: _Pair) -> bool:
        pair.note_request(data)
        with self._lock:
            if self._server_spoke:
                self.round_trips += 1
                self._server_spoke = False
            if pair.appending and self._appends_to_lose:
                self._appends_to_lose -= 1
                self.lost += 1
                return True
        return self.lose_request(data)

    def _loses_reply(self, data: bytes, pair: _Pair) -> bool:
        with self._lock:
            self._server_spoke = True
            lost = pair.committed(data) and self._replies_to_lose > 0
            if lost:
                self._replies_to_lose -= 1
                self.lost += 1
        if lost:
            self.after_loss()
        return lost or self.lose_reply(data)


def _connect(target: Target) -> socket.socket:
    if isinstance(target, tuple):
        return socket.create_connection(target)
    server = socket.socket(socket.AF_UNIX)
    server.connect(str(target))
    return server


def _cut(*sockets: socket.socket) -> None:
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
        finally:
            one.close()


@contextmanager
def run_proxy(target: Target, port: int | None = None) -> Iterator[Proxy]:
    """
    Run a proxy before a server, and close it at the end.

    :param target: the server: its Unix socket, or host and port.
    """
    proxy = Proxy(target, port)
    try:
        yield proxy
    finally:
        proxy.close()


def target_of(url: str) -> Target:
    """Return where the server of a URL listens."""
    parts = conninfo_to_dict(url)
    host, port = str(parts.get("host", "localhost")), int(parts.get("port") or 5432)
    return Path(host) / f".s.PGSQL.{port}" if host.startswith("/") else (host, port)


def url_through(proxy: Proxy, url: str) -> str:
    """
    Return the URL of the same database through a proxy before its server.

    It has no TLS, as the proxy has to read what passes.
    """
    return url_of(url, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")


def url_of(url: str, **changes: str | int) -> str:
    """
    Return a URL with other parameters.

    :param changes: by their names in libpq: `dbname`, `host`, `port`, `user` …
    """
    parts = {name: str(value) for name, value in conninfo_to_dict(url, **changes).items()}
    login = quote(parts.pop("user", ""), safe="")
    if password := parts.pop("password", ""):
        login += f":{quote(password, safe='')}"
    database = quote(parts.pop("dbname", ""), safe="")
    # A host of a Unix socket fits into the query alone.
    rest = urlencode(parts, safe="/", quote_via=quote)
    return f"postgresql://{login}@/{database}?{rest}"
