"""
Field types of events, and the limits they keep; each limit has its cause beside it.

Labels (titles, keys, ids, names) are stored in text columns, so what PostgreSQL text cannot hold is
refused there. Content, arguments and outputs are JSON payloads and are stored as they come, NUL and
lone surrogates included.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Annotated, Any

from pydantic import PlainValidator

from eventstore.errors import InvalidInput, NotStorable
from eventstore.events.json_codec import Json, as_json_text, check_json

__all__ = [
    "EARLIEST",
    "LATEST",
    "MAX_APPEND",
    "MAX_BATCH",
    "MAX_CONTENT",
    "MAX_PAYLOAD",
    "MAX_TITLE",
    "MAX_TYPE",
    "MAX_USER_ID",
    "Description",
    "JsonField",
    "JsonObject",
    "Key",
    "Name",
    "RawText",
    "Sender",
    "Title",
    "check_choice",
    "check_label",
    "check_list",
    "check_number",
    "check_occurred_at",
    "check_timestamp",
    "check_user_id",
    "has_visible",
    "plain_text",
    "storable_label",
]

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

MAX_BATCH = 1_000
"""Events in one append: the user's row stays locked until all of them are written."""

MAX_USER_ID = 255
"""Characters: the user id leads every key and index, and an index row holds 2,704 bytes."""

# A user id and a key of 4-byte characters are 2,040 bytes of an index row together.
MAX_KEY = 255
"""Characters of a key, a sender or a call id: keys and call ids are indexed too."""

MAX_TITLE = 500
"""Characters of a title: it is shown on one line."""

MAX_DESCRIPTION = 20_000
"""Characters of a task's description."""

MAX_CONTENT = 4_000_000
"""
Characters of a text that a command is given by itself: a message's content, a call's arguments.
PostgreSQL stops at 1 GB. A whole body, or parts, are limited by their bytes.
"""

MAX_PAYLOAD = 16 * 1024 * 1024
"""Bytes of one event's JSON, payload and metadata."""

MAX_APPEND = 4 * MAX_PAYLOAD
"""
Bytes of JSON of all events of one append: the server takes about 0.1 seconds for each megabyte, and
the user's other appends wait for the user's row no longer than 10 seconds.
"""

MAX_TYPE = 100
"""Characters of an event's stored name: it stands in every event."""

# Python's first and last days are no dates of Python's in every time zone, and PostgreSQL's years
# before 1 and after 9999 are none at all.
EARLIEST, LATEST = datetime(1, 1, 4, tzinfo=UTC), datetime(9999, 12, 28, tzinfo=UTC)
"""When something may have happened, both inclusive; `readable_timestamp` reads these."""

_MAX_BIGINT = 2**63 - 1
_SHOWN_BITS = 128

_BLANK_CATEGORIES = {"Cc", "Cf", "Zl", "Zp", "Zs"}
"""Controls, format characters, line and paragraph separators, spaces: a label needs another."""

# Characters of other categories that show nothing by themselves. First those that Unicode calls
# Default_Ignorable_Code_Point (DerivedCoreProperties.txt of Unicode 16.0, with the reserved ones):
# fillers of Hangul, variation selectors, tags. Then the blank ones that have no property: the empty
# Braille pattern, the null notehead and the filler of Khitan. Private and unassigned code points
# count as visible, because fonts and newer versions of Unicode show them.
_BLANK = re.compile(
    "[\u00ad\u034f\u061c\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\u2800\U0001d159\U00016fe4]"
)


def check_label(value: object, path: str, limit: int, *, empty: bool = False) -> str:
    """
    Return `value` if a text column can hold it.

    :param path: what the error names: a parameter or field of the caller's.
    :param limit: characters at most.
    :param empty: accept a text that is empty or shows nothing.
    :raises InvalidInput: not text, too long, or without a visible character.
    :raises NotStorable: it has a NUL or a lone surrogate.
    """
    if not isinstance(value, str):
        raise InvalidInput(path, f"expected text, got {type(value).__name__}")
    if len(value) > limit:
        raise InvalidInput(path, f"{len(value)} characters, the limit is {limit}; shorten it")
    if "\0" in value:
        raise NotStorable(path, "has a NUL, which PostgreSQL text cannot hold; remove it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise NotStorable(
            path, f"has a lone surrogate at character {error.start}; remove it"
        ) from None
    if not empty and not has_visible(value):
        raise InvalidInput(path, "has no visible character; give at least one")
    return value


def plain_text(text: str) -> str:
    """Return text that PostgreSQL can hold: NUL and lone surrogates become U+FFFD."""
    shown = text.replace("\0", "\ufffd")
    try:
        shown.encode()  # far faster than a search, and a message may have megabytes
    except UnicodeEncodeError:
        return _LONE_SURROGATE.sub("\ufffd", shown)
    return shown


_DIGEST_CHARACTERS = 16


def storable_label(text: str) -> str:
    """
    Return a name that came in an item as a text column and an index can hold it.

    What fits stays as it is. Of a name that is too long the end becomes a digest, so that two
    long names stay two; the item itself has the name as it came.
    """
    shown = text if text.isascii() and "\0" not in text else plain_text(text)
    if len(shown) <= MAX_KEY:
        return shown
    # Of the text as it came, because lone surrogates may be all that tells two names apart.
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{shown[: MAX_KEY - _DIGEST_CHARACTERS - 1]}…{digest}"


def has_visible(text: str) -> bool:
    """Return whether a text has a character that shows something by itself."""
    # Most begin with a letter; what is below "!" in ASCII is blank.
    return "!" <= text[:1] <= "~" or any(map(_is_visible, text))


def _is_visible(char: str) -> bool:
    return unicodedata.category(char) not in _BLANK_CATEGORIES and not _BLANK.match(char)


def check_number(value: object, path: str, *, least: int = 0) -> int:
    """
    Return `value` if it is a position, version or count that PostgreSQL can hold.

    :param path: what the error names: a parameter of the caller's.
    :param least: the smallest number that is accepted.
    :raises InvalidInput: not a whole number, less than `least`, or over 63 bits.
    """
    # True is an int in Python, and would be taken for 1.
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInput(path, f"expected a whole number, got {type(value).__name__}")
    if not least <= value <= _MAX_BIGINT:
        # Python refuses to write out an integer of over 4,300 digits.
        bits = value.bit_length()
        shown = str(value) if bits <= _SHOWN_BITS else f"a number of {bits} bits"
        raise InvalidInput(path, f"{shown}; give {least} to {_MAX_BIGINT}")
    return value


def check_choice(value: object, path: str, choices: Iterable[str]) -> None:
    """
    Check that `value` is one of some words.

    :param path: what the error names: a parameter of the caller's.
    :raises InvalidInput: it is another one, or no text.
    """
    words = [*choices]
    if not isinstance(value, str) or value not in words:
        shown = f"{value!r:.40}" if isinstance(value, str) else f"a {type(value).__name__}"
        raise InvalidInput(path, f"{shown}; give one of {', '.join(words)}")


def check_list(value: object, path: str, of: str) -> Collection[Any]:
    """
    Return `value` if it holds several values, which can be read more than once.

    A text would be taken for a list of its letters, and an iterator has nothing left for the next
    page, or for a retry.

    :param path: what the error names: a parameter of the caller's.
    :param of: what the values are, for the error: `items`.
    :raises InvalidInput: a text, an object with names, an iterator, or no container.
    """
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Collection):
        raise InvalidInput(path, f"a {type(value).__name__}; give a list of {of}")
    return value


def check_timestamp(value: object, path: str) -> datetime:
    """
    Return `value` if it is a timestamp with time zone: without one it is another on each machine.

    :param path: what the error names: a parameter of the caller's.
    :raises InvalidInput: it is none.
    """
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidInput(path, "is no timestamp with time zone; give one, or leave it out")
    return value


def check_occurred_at(value: object, path: str) -> datetime:
    """
    Return when something happened, in UTC, if it can be stored; a date in the future can.

    :param path: what the error names.
    :raises InvalidInput: not a timestamp with time zone, or before 0001-01-04 or after 9999-12-28.
    """
    timestamp = check_timestamp(value, path)
    if not EARLIEST <= timestamp <= LATEST:
        limits = f"{EARLIEST.date()} to {LATEST.date()}"
        raise InvalidInput(path, f"is {timestamp.isoformat()}; give {limits}, or leave it out")
    return timestamp.astimezone(UTC)


def check_user_id(user_id: object) -> str:
    """
    Return `user_id` if it is 1 to 255 characters of storable text; nothing else is read from it.

    :raises InvalidInput: it is not text, blank or too long.
    :raises NotStorable: it has a NUL or a lone surrogate.
    """
    return check_label(user_id, "user_id", MAX_USER_ID)


def _label(path: str, limit: int, *, empty: bool = False) -> PlainValidator:
    return PlainValidator(partial(check_label, path=path, limit=limit, empty=empty))


def _raw_text(value: object) -> str:
    # `make_event` puts the name of the field in the place of "text" and "value" in these paths.
    if not isinstance(value, str):
        raise InvalidInput("text", f"expected text, got {type(value).__name__}")
    if len(value) > MAX_CONTENT:
        raise InvalidInput(
            "text", f"{len(value)} characters, the limit is {MAX_CONTENT}; store a reference"
        )
    return as_json_text(value)


def _json(value: object) -> Json:
    return check_json(value, "value")


def _json_object(value: object) -> Json:
    if type(value) is not dict and not isinstance(value, Mapping):
        raise InvalidInput("value", f"expected a JSON object, got {type(value).__name__}")
    return check_json(value, "value")


# Plain validators, because pydantic's own `str` refuses lone surrogates and its JsonValue accepts
# NaN.
Title = Annotated[str, _label("title", MAX_TITLE)]
Description = Annotated[str, _label("description", MAX_DESCRIPTION, empty=True)]
Key = Annotated[str, _label("key", MAX_KEY)]
Sender = Annotated[str, _label("sender", MAX_KEY)]
Name = Annotated[str, _label("name", MAX_KEY, empty=True)]
RawText = Annotated[str, PlainValidator(_raw_text)]
JsonField = Annotated[Any, PlainValidator(_json)]
JsonObject = Annotated[dict[str, Any], PlainValidator(_json_object)]
