"""`eventstore import`: import conversations in the OpenAI chat format from JSON Lines files."""

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
from eventstore.cli.output import ProgressReport, print_fields, print_json, report_progress
from eventstore.errors import EventStoreError, InvalidInput
from eventstore.events.fields import check_user_id
from eventstore.events.json_codec import loads
from eventstore.store.chat_import import ChatConversation, Imported
from eventstore.store.store import EventStore

__all__ = ["import_files"]

_BATCH = 64
"""Conversations imported by one call: enough to keep all jobs busy, few enough for memory."""


def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            dir_okay=False,
            readable=True,
            help="Files of JSON Lines, plain, .gz or .xz. Each line is one conversation: "
            "{'id': …, 'messages': […]}.",
        ),
    ],
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="USER", help="Import all conversations for this user id."),
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(
            "--users",
            min=1,
            help="Instead of --user: spread the conversations over user-1 … user-N by the CRC-32 "
            "of their keys, so that a second run finds the same users.",
        ),
    ] = None,
    key_prefix: Annotated[
        str,
        typer.Option(
            "--key-prefix",
            help="Text to put before each id, so that equal ids in several files stay apart.",
        ),
    ] = "",
    jobs: Annotated[
        int,
        typer.Option("--jobs", min=1, max=64, help="How many conversations are imported at once."),
    ] = 2,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Import conversations in the OpenAI chat format from JSON Lines files.

    Each conversation is imported completely or not at all. All lines are parsed
    before the first is imported. After an interruption, run the same command
    again: conversations that exist already with the same content are skipped.

    Exit status 1 if a conversation exists with other content or was erased (the
    conversations before it stay imported); 2 if a file cannot be read or a line
    is not a conversation, which the error names.
    """
    if (user is None) == (users is None):
        raise InvalidInput("--user", "give either --user USER or --users N")
    if user is not None:
        check_user_id(user)
    for path in files:
        if not path.is_file():
            raise InvalidInput(
                str(path), "is not a file that can be read twice; write a pipe's content to a file"
            )
    started = time.monotonic()
    # This first pass also checks every line, so that a bad line is found before any import.
    total = sum(1 for path in files for _ in _read_conversations(path, key_prefix))
    with (
        open_store(database, jobs=jobs) as store,
        report_progress("conversations", total, quiet=json) as progress,
    ):
        imported = Imported()
        for path in files:
            owned = (
                (_user_of(conversation.key, users or 1) if user is None else user, conversation)
                for conversation in _read_conversations(path, key_prefix)
            )
            for batch in batched(owned, _BATCH, strict=False):
                imported += _import_batch(store, batch, jobs, progress)
    fields = asdict(imported) | {"seconds": round(time.monotonic() - started, 3)}
    if json:
        print_json(fields)
    else:
        print_fields(fields)


def _import_batch(
    store: EventStore,
    batch: Sequence[tuple[str, ChatConversation]],
    jobs: int,
    progress: ProgressReport,
) -> Imported:
    imported = store.import_conversations(batch, jobs=jobs)
    progress.advance(len(batch))
    return imported


def _user_of(key: str, users: int) -> str:
    # Python's `hash` of a text differs from process to process, and a second run must find it.
    return f"user-{zlib.crc32(key.encode()) % users + 1}"


def _read_conversations(path: Path, prefix: str) -> Iterator[ChatConversation]:
    """
    Yield the conversations of a file.

    :raises InvalidInput: the file cannot be read, or a line is not a conversation; the error names
        the line.
    """
    with _open(path) as lines:
        number = 0  # for the error, if the file breaks before its first line
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    # Editors on Windows begin a file with a byte order mark.
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    yield _parse_conversation(loads(text), path, number, prefix)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise InvalidInput(str(path), f"cannot be read after line {number}: {error}") from error
        except EventStoreError:  # an InvalidInput is a ValueError too, and names its line already
            raise
        except (ValueError, UnicodeError) as error:
            raise InvalidInput(f"{path}:{number}", f"is not JSON: {error}") from error


def _open(path: Path) -> BinaryIO:
    match path.suffix:
        case ".gz":
            return cast("BinaryIO", gzip.open(path))
        case ".xz":
            return cast("BinaryIO", lzma.open(path))
        case _:
            return path.open("rb")


def _parse_conversation(line: Any, path: Path, number: int, prefix: str) -> ChatConversation:
    location = f"{path}:{number}"
    messages = line.get("messages") if isinstance(line, dict) else None
    if not isinstance(messages, list):
        raise InvalidInput(location, "has no list `messages`; give {'id': …, 'messages': […]}")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidInput(f"{location}: messages[{index}]", "is not an object with a `role`")
    key = line.get("id")
    if key is None:
        # A digest of the messages would be a key too, but it would survive their erasure.
        key = f"{path.name}:{number}"
    if type(key) not in {str, int}:
        raise InvalidInput(
            f"{location}: id", f"is a {type(key).__name__}; give text or a whole number"
        )
    return ChatConversation(f"{prefix}{key}", messages, location)
