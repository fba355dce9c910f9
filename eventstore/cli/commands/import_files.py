"""`eventstore import`: conversations in the OpenAI chat format, from JSON Lines files."""

from __future__ import annotations

import gzip
import lzma
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import batched
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import typer

from eventstore.cli.options import Database, Json, open_store
from eventstore.cli.output import Ticker, print_facts, print_json, ticker
from eventstore.errors import EventStoreError, InvalidInput
from eventstore.events.fields import check_user_id
from eventstore.events.json_codec import loads
from eventstore.store.chat_import import ChatConversation, Imported
from eventstore.store.store import EventStore

__all__ = ["import_files"]

_AHEAD = 64
"""Conversations handed to the workers at once: enough to keep them busy, few in memory."""


def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            dir_okay=False,
            readable=True,
            help="JSON Lines, plain, .gz or .xz: {'id': …, 'messages': […]} a line.",
        ),
    ],
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Import all under this user.")
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(
            "--users",
            min=1,
            help="Spread over user-1 … user-N by crc32(id), so that a second run finds them.",
        ),
    ] = None,
    key_prefix: Annotated[
        str, typer.Option("--key-prefix", help="Put before each id, where files share ids.")
    ] = "",
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=64, help="Appends at once.")] = 2,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Import conversations; each is written whole or not at all.

    Every line is read and checked before the first is written. Run it again after an interruption:
    what is there already is skipped.
    """
    if (user is None) == (users is None):
        raise InvalidInput("--user", "give either --user USER or --users N")
    if user is not None:
        check_user_id(user)
    for path in files:
        if not path.is_file():
            raise InvalidInput(str(path), "is not a file; it is read twice, so a pipe will not do")
    started = time.monotonic()
    total = sum(1 for path in files for _ in _conversations(path, key_prefix))
    with (
        open_store(database, jobs=jobs) as store,
        ticker("conversations", total, quiet=json) as bar,
    ):
        imported = Imported()
        for path in files:
            owned = (
                (_user_of(one.key, users or 1) if user is None else user, one)
                for one in _conversations(path, key_prefix)
            )
            for some in batched(owned, _AHEAD, strict=False):
                imported += _write(store, some, jobs, bar)
    facts = asdict(imported) | {"seconds": round(time.monotonic() - started, 3)}
    if json:
        print_json(facts)
    else:
        print_facts(facts)


def _write(
    store: EventStore, some: Sequence[tuple[str, ChatConversation]], jobs: int, bar: Ticker
) -> Imported:
    done = store.import_conversations(some, jobs=jobs)
    bar.advance(len(some))
    return done


def _user_of(key: str, users: int) -> str:
    return f"user-{zlib.crc32(key.encode()) % users + 1}"


def _conversations(path: Path, prefix: str) -> Iterator[ChatConversation]:
    """Yield the file's conversations, each checked for shape; a bad line stops with its number."""
    with _opened(path) as lines:
        number = 0
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    yield _conversation(loads(text), path, number, prefix)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise InvalidInput(str(path), f"cannot be read after line {number}: {error}") from error
        except EventStoreError:
            raise
        except (ValueError, UnicodeError) as error:
            raise InvalidInput(f"{path}:{number}", f"is not JSON: {error}") from error


def _opened(path: Path) -> BinaryIO:
    match path.suffix:
        case ".gz":
            return cast("BinaryIO", gzip.open(path))
        case ".xz":
            return cast("BinaryIO", lzma.open(path))
        case _:
            return path.open("rb")


def _conversation(line: Any, path: Path, number: int, prefix: str) -> ChatConversation:
    place = f"{path}:{number}"
    messages = line.get("messages") if isinstance(line, dict) else None
    if not isinstance(messages, list):
        raise InvalidInput(place, "has no list `messages`; give {'id': …, 'messages': […]}")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidInput(f"{place}: messages[{index}]", "is not an object with a `role`")
    key = line.get("id")
    if key is None:  # not a digest of what was said: it would outlive an erasure
        key = f"{path.name}:{number}"
    if type(key) not in {str, int}:
        raise InvalidInput(f"{place}: id", f"a {type(key).__name__}; give text or a whole number")
    return ChatConversation(f"{prefix}{key}", messages, place)
