"""
Anchors: the heads of logs, stored outside the database.

Somebody who may change everything in a database can recompute a hash chain up to its end, cut off
its tail, or restore an older backup, and nothing inside the database shows it. A copy of the heads
that was taken before shows it. An anchor is a file of JSON Lines: a header, one line for each head,
and a seal as the last line::

    {"anchor":1,"taken_at":"2026-11-22T20:00:00.000000Z"}
    {"user_id":"alice","position":42,"hash":"77…e2","recorded_at":"2026-11-22T19:59:…Z"}
    {"heads":1,"sha256":"ab…","signature":"cd…"}

`heads` is the number of heads. `sha256` is the digest of every byte before the last line.
`signature`, if there is one, is an Ed25519 signature of the text `eventstore anchor ` followed by
that digest in hex; see `signature`.
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
_FORMAT = 1  # files are kept for years, so a later release must still read this form


@dataclass(frozen=True, slots=True)
class Head:
    """
    The end of one user's log at the moment it was read.

    :ivar position: the position of the last event.
    :ivar hash: the hash of that event; through the chain it covers every event before it.
    :ivar recorded_at: when that event was recorded, UTC.
    """

    user_id: str
    position: int
    hash: bytes
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Anchor:
    """
    The heads of several logs, as one anchor file holds them.

    :ivar taken_at: when the file was begun, UTC.
    :ivar heads: the heads by user id.
    :ivar signed: True if the file's signature was checked against a public key.
    :ivar unchecked: True if the file has a signature that was not checked, because no public key
        was given.
    """

    taken_at: datetime
    heads: dict[str, Head]
    signed: bool
    unchecked: bool = False


def write_anchor(file: BinaryIO, heads: Iterable[Head], *, private_key: bytes | None = None) -> int:
    """
    Write an anchor to `file`.

    :param file: open for writing bytes; an error leaves it half written.
    :param heads: at most one head for each user; each is written as it arrives, so that they need
        not all be in memory.
    :param private_key: an Ed25519 private key as PEM; None leaves the anchor unsigned.
    :return: the number of heads written.
    :raises ConfigurationError: the key cannot be used, or the extra `signing` is not installed.
    """
    count = 0
    for line in anchor_lines(heads, private_key):
        file.write(line)
        count += 1
    return count - 2  # the header and the seal are no heads


def anchor_lines(heads: Iterable[Head], private_key: bytes | None = None) -> Iterator[bytes]:
    """
    Yield the lines of an anchor that is taken now: the header, the heads and the seal.

    :param heads: at most one for each user.
    :param private_key: an Ed25519 private key as PEM; None leaves the anchor unsigned.
    :return: each line ends with a newline.
    :raises ConfigurationError: the key cannot be used, or the extra `signing` is not installed.
    """
    digest, count = sha256(), 0
    header = _line({"anchor": _FORMAT, "taken_at": timestamp_text(datetime.now(UTC))})
    digest.update(header)
    yield header
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
        seal["signature"] = sign(_signed_text(digest.hexdigest()), private_key).hex()
    yield _line(seal)


def read_anchor(path: str | Path, *, public_key: bytes | None = None) -> Anchor:
    """
    Read an anchor file and check its seal.

    :param path: the file; all of it is read into memory.
    :param public_key: the Ed25519 public key as PEM; the file must be signed by its owner. None
        leaves a signature unchecked.
    :raises InvalidInput: the file cannot be read, is not an anchor, was cut short or changed, has
        two heads of one user, or is not signed by that key.
    :raises ConfigurationError: the key cannot be used, or the extra `signing` is not installed.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        first, *middle, last = lines
        header, seal = loads(first.decode()), loads(last.decode())
        digest = sha256(b"".join(lines[:-1])).hexdigest()
        taken_at = _timestamp(header["taken_at"])
        format_version, count = _integer(header["anchor"]), _integer(seal["heads"])
        heads = [_head(loads(line.decode())) for line in middle]
        sealed, signature = seal["sha256"], seal.get("signature")
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be read: {error.strerror}") from error
    # Any file may be given, with too few lines, lists for objects, or years out of range.
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidInput(str(path), "is not an anchor, or was cut short") from error
    sealed_values, found_values = (sealed, format_version, count), (digest, _FORMAT, len(heads))
    # The last newline is no part of the digest, but without it the file was cut by a byte.
    if sealed_values != found_values or not last.endswith(b"\n"):
        raise InvalidInput(
            str(path), "was changed after it was written: the seal does not match the content"
        )
    if public_key is not None and not (
        isinstance(signature, str) and verify_signature(_signed_text(digest), signature, public_key)
    ):
        raise InvalidInput(str(path), "is not signed by this key; do not trust it")
    by_user = {head.user_id: head for head in heads}
    # Anybody can compute an unsigned seal, and the second head of a user would hide the first.
    if len(by_user) < len(heads):
        raise InvalidInput(str(path), "has two heads of one user; do not trust it")
    signed = public_key is not None
    return Anchor(taken_at, by_user, signed, unchecked=signature is not None and not signed)


def _head(line: dict[str, Any]) -> Head:
    """
    Return the head in a line, if a table of the log can hold it.

    :raises ValueError: it cannot, or the time is in another form.
    """
    # Logs that were tampered with are anchored too: positions below 1 and short hashes pass.
    user_id, position, hashed = line["user_id"], line["position"], bytes.fromhex(line["hash"])
    if not user_id or b"\0" in user_id.encode():
        raise ValueError("no log has this user id")
    if type(position) is not int or position.bit_length() > _BIGINT_BITS:
        raise ValueError("no log has this position")
    return Head(user_id, position, hashed, _timestamp(line["recorded_at"]))


def _timestamp(text: str) -> datetime:
    timestamp = datetime.fromisoformat(text)
    if timestamp_text(timestamp) != text:
        raise ValueError("a timestamp in another form than write_anchor gives it")
    return timestamp


def _integer(value: object) -> int:
    if type(value) is not int:  # True and 1.0 equal 1, but write_anchor writes neither
        raise ValueError("not an integer")
    return value


def _line(value: dict[str, Any]) -> bytes:
    return dumps(value).encode() + b"\n"


def _signed_text(digest: str) -> bytes:
    # The text is printable, so that OpenSSL and a shell can check a signature without this library.
    return f"eventstore anchor {digest}".encode()
