"""
Pages of lists, and the cursors by which the next page is found.

A page begins behind the last row of the page before, by what the list is ordered by, and not at a
number of rows: what comes or goes in front of it neither hides a row nor shows one twice.

A cursor is text for whoever asks for the next page, a web client among them, and is not to be read.
It holds the values of that last row, and a digest of them, of the user, the list, its filters and
its order. So one that was cut, or that belongs to something else, is refused, where it would give
a wrong page. It is no secret and grants nothing: a page holds the rows of its scope's user.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from eventstore.errors import InvalidInput
from eventstore.events.fields import check_number, check_timestamp
from eventstore.events.json_codec import check_json, dumps, loads

__all__ = ["Cursors", "Page", "fetched"]

_VERSION = b"\x01"
_DIGEST_BYTES = 9
_LONGEST = 10_000
"""Characters of a cursor: the longest sort key is a title or a rank."""

_LARGEST_LIMIT = 2**63 - 2


class Page[T](list[T]):
    """
    One page of a list: a list of its rows that knows how to go on.

    ::

        page = alice.tasks.list(limit=50)
        while page.more:
            page = alice.tasks.list(limit=50, after=page.next)

    :ivar next: the cursor of the page that follows, or None if this is the last one.
    """

    __slots__ = ("next",)

    def __init__(self, rows: Iterable[T] = (), next: str | None = None) -> None:  # noqa: A002 - the word that callers look for
        super().__init__(rows)
        self.next = next

    @property
    def more(self) -> bool:
        """True if rows follow this page."""
        return self.next is not None


def fetched(limit: int) -> int:
    """
    Return how many rows to select for a page: one more than it shows, to know whether more follow.

    :param limit: what the caller gave.
    :raises InvalidInput: no whole number, negative, or over 63 bits.
    """
    return min(check_number(limit, "limit"), _LARGEST_LIMIT) + 1


@dataclass(frozen=True, slots=True)
class Cursors:
    """
    The cursors of one list of one user.

    :ivar what: the list, with the filters and the order that the caller gave; a cursor is good for
        exactly these.
    :ivar kinds: the types of the values in a cursor: `int`, `str`, or `datetime` with null.
    """

    user_id: str
    what: tuple[object, ...]
    kinds: tuple[type, ...]

    def read(self, after: object) -> tuple[Any, ...] | None:
        """
        Return the values that a cursor holds; None where the list begins.

        :param after: what the caller gave: `next` of a page, or None.
        :raises InvalidInput: it is no cursor of this list.
        """
        if after is None:
            return None
        if not isinstance(after, str):
            raise InvalidInput("after", f"a {type(after).__name__}; give `next` of the page before")
        if len(after) <= _LONGEST and (values := self._values(after)) is not None:
            return values or None
        raise InvalidInput(
            "after",
            "is no cursor of this list; give `next` of the page before, with the user, the filters "
            "and the order of that page, or leave it out to begin anew",
        )

    def page[R, T](
        self,
        rows: Sequence[R],
        limit: int,
        after: str | None,
        key: Callable[[R], tuple[object, ...]],
        view: Callable[[R], T],
    ) -> Page[T]:
        """
        Return the page of the first `limit` rows.

        :param rows: as many as `fetched` says, if there are so many.
        :param after: the cursor of this page.
        :param key: the values of a row by which the list is ordered.
        :param view: what is shown of a row; called for the rows of the page alone.
        """
        if len(rows) <= limit:
            return Page(map(view, rows))
        # A page of no rows is followed by the rows that follow its own cursor.
        end = self._cursor(key(rows[limit - 1])) if limit else after or self._cursor(())
        return Page(map(view, rows[:limit]), end)

    def _values(self, cursor: str) -> tuple[Any, ...] | None:
        try:
            data = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
            stored = loads(data[1 + _DIGEST_BYTES :].decode())
            if not isinstance(stored, list) or self._signed(stored) != data:
                return None
            kinds = self.kinds if stored else ()  # a page of no rows at the beginning
            return tuple(_read(one, kind) for one, kind in zip(stored, kinds, strict=True))
        except (ValueError, TypeError):
            return None

    def _cursor(self, values: tuple[object, ...]) -> str:
        return urlsafe_b64encode(self._signed(values)).decode().rstrip("=")

    def _signed(self, values: Sequence[object]) -> bytes:
        # A moment is one text in every time zone here.
        body = dumps(check_json(values, "after")).encode()
        about = dumps(check_json((self.user_id, *self.what), "after")).encode()
        return _VERSION + sha256(about + b"\n" + body).digest()[:_DIGEST_BYTES] + body


def _read(stored: object, kind: type) -> object:
    """Return a value of a cursor; whoever wants to can make one of other types."""
    if kind is datetime and isinstance(stored, str):
        # Without a zone it is comparable neither here nor there.
        return check_timestamp(datetime.fromisoformat(stored), "after")
    if kind is int:
        return check_number(stored, "after")
    if kind is datetime and stored is None:
        return None
    if type(stored) is not kind:
        raise TypeError(kind)
    return stored
