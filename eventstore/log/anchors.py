"""
Anchors: the heads of logs, kept outside the database.

Whoever may change everything in a database can recompute a hash chain to its end, cut its tail, or
restore an older backup, and nothing inside the database tells. A copy of the heads that was taken
before does. An anchor is a file of JSON Lines: a line that says what it is, a line for each head,
and a last line that seals it::

    {"anchor":1,"taken_at":"2026-11-22T20:00:00.000000Z"}
    {"user_id":"alice","position":42,"hash":"77…e2","recorded_at":"2026-11-22T19:59:…Z"}
    {"heads":1,"sha256":"ab…","signature":"cd…"}

`sha256` is that of every byte before the last line. `signature`, if there is one, is Ed25519 over
the text `eventstore anchor ` and that digest in hex: see `signature`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from eventstore.database.timestamps import timestamp_text
from eventstore.errors import InvalidInput
from eventstore.events.json_codec import dumps, loads
from eventstore.log.signature import sign, verify_signature

__all__ = ["Anchor", "Head", "anchor_lines", "read_anchor", "write_anchor"]

_BIGINT_BITS = 63
_FORM = 1


@dataclass(frozen=True, slots=True)
class Head:
    """
    Where one user's log ended.

    :ivar hash: of the event at `position`, and through the chain of every event before it.
    :ivar recorded_at: of that event, UTC.
    """

    user_id: str
    position: int
    hash: bytes
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Anchor:
    """
    The heads of one moment.

    :ivar heads: by user.
    :ivar signed: True if the file's signature was checked against a public key.
    :ivar unchecked: True if it has one that was not.
    """

    taken_at: datetime
    heads: dict[str, Head]
    signed: bool
    unchecked: bool = False


def write_anchor(file: BinaryIO, heads: Iterable[Head], *, private_key: bytes | None = None) -> int:
    """
    Write an anchor to `file` and return how many heads it has.

    :param heads: written as they come, so they need not be in memory.
    :param private_key: PEM of an Ed25519 key; None leaves the anchor unsigned.
    :raises ConfigurationError: the key cannot be used, or the extra `signing` is not installed.
    """
    count = 0
    for line in anchor_lines(heads, private_key):
        file.write(line)
        count += 1
    return count - 2  # the first line and the seal


def anchor_lines(heads: Iterable[Head], private_key: bytes | None = None) -> Iterator[bytes]:
    """Yield the lines of an anchor taken now."""
    digest, count = sha256(), 0
    first = _line({"anchor": _FORM, "taken_at": timestamp_text(datetime.now(UTC))})
    digest.update(first)
    yield first
    for head in heads:
        line = _line(
            {
                "user_id": head.user_id,
                "position": head.position,
                "hash": head.hash.hex(),
                "recorded_at": timestamp_text(head.recorded_at),
            }
        )
        digest.update(line)
        count += 1
        yield line
    seal: dict[str, Any] = {"heads": count, "sha256": digest.hexdigest()}
    if private_key is not None:
        seal["signature"] = sign(_signed(digest.hexdigest()), private_key).hex()
    yield _line(seal)


def read_anchor(path: Path, *, public_key: bytes | None = None) -> Anchor:
    """
    Read an anchor and check its seal.

    :param public_key: PEM of the Ed25519 key that must have signed it.
    :raises InvalidInput: it is no anchor, was cut or changed, or is not signed by that key.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        first, *middle, last = lines
        top, seal = loads(first.decode()), loads(last.decode())
        digest = sha256(b"".join(lines[:-1])).hexdigest()
        taken_at, wanted = _instant(top["taken_at"]), (_count(top["anchor"]), _count(seal["heads"]))
        heads = [_head(loads(line.decode())) for line in middle]
        sealed, signature = seal["sha256"], seal.get("signature")
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidInput(str(path), "is not an anchor, or was cut short") from error
    if (sealed, *wanted) != (digest, _FORM, len(heads)) or not last.endswith(b"\n"):
        raise InvalidInput(str(path), "was changed after it was written: its seal does not fit")
    if public_key is not None and not (
        isinstance(signature, str) and verify_signature(_signed(digest), signature, public_key)
    ):
        raise InvalidInput(str(path), "is not signed by this key; do not trust it")
    by_user = {head.user_id: head for head in heads}
    if len(by_user) < len(heads):
        raise InvalidInput(str(path), "has two heads of one user; do not trust it")
    signed = public_key is not None
    return Anchor(taken_at, by_user, signed, unchecked=signature is not None and not signed)


def _head(line: dict[str, Any]) -> Head:
    """Return the head in a line: any that a table can hold, for a spoiled one is anchored too."""
    user_id, position, hashed = line["user_id"], line["position"], bytes.fromhex(line["hash"])
    if not user_id or b"\0" in user_id.encode():
        raise ValueError("a user id that no log has")
    if type(position) is not int or position.bit_length() > _BIGINT_BITS:
        raise ValueError("a position that no log has")
    return Head(user_id, position, hashed, _instant(line["recorded_at"]))


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if timestamp_text(instant) != text:
        raise ValueError("an instant in another form")
    return instant


def _count(value: object) -> int:
    if type(value) is not int:
        raise ValueError("no count")
    return value


def _line(value: dict[str, Any]) -> bytes:
    return dumps(value).encode() + b"\n"


def _signed(digest: str) -> bytes:
    return f"eventstore anchor {digest}".encode()
