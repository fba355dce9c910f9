"""
Conversations of files, in the order in which they began.

Exports are newest first, and may be far larger than memory. So a file is read twice: first to find
each conversation, with its date and whether it can be read at all, and then to read one after the
other from where it is. Between the two only dates and places are in memory. What is compressed is
unpacked into a temporary file, because nobody can go back in it.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO, Self

from eventstore.errors import EventStoreError, InvalidInput
from eventstore.events.json_codec import loads
from eventstore.imports.conversation import ImportedConversation, ImportFailure
from eventstore.imports.formats import Branches, Format, read_conversation
from eventstore.imports.json_values import FoundValue, find_values

__all__ = ["ExportFiles"]

_IN_ARCHIVES = "conversations*.json"
"""What ChatGPT and Claude name the file of the conversations in the archive that they send."""

_NO_DATE = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Source:
    """A file that can be read from any place; `name` is for messages, `short` for keys."""

    name: str
    short: str
    file: BinaryIO


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a conversation is, and when it began."""

    began_at: datetime
    source: _Source
    start: int
    size: int
    location: str


class ExportFiles:
    """
    The conversations of some files; use it in a `with` block.

    ::

        with ExportFiles([Path("conversations.json")]) as files:
            for branches in files:
                store.import_conversations([("alice", one) for one in branches])

    :ivar failures: what could not be read, which is known from the start.
    :ivar count: how many conversations there are, branches included.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        format: Format = Format.AUTO,  # noqa: A002 - the option's name
        branches: Branches = Branches.CURRENT,
        key_prefix: str = "",
    ) -> None:
        """
        Find the conversations; each is read once to check it.

        :param paths: JSON Lines, or JSON with one conversation or an array of them; names that end
            in `.gz` or `.xz` are unpacked, and of a `.zip` the files `conversations*.json`.
        :param format: of all conversations; AUTO tells it for each.
        :param branches: of conversations that are trees.
        :param key_prefix: put before each key.
        :raises InvalidInput: a file cannot be read.
        """
        self._format = format
        self._branches = branches
        self._prefix = key_prefix
        self._open = ExitStack()
        self.failures: list[ImportFailure] = []
        self.count = 0
        try:
            places = [place for path in paths for place in self._find(path)]
        except BaseException:
            self._open.close()
            raise
        # Those without a date come first, in the order of the file: the sort is stable.
        self._places = sorted(places, key=lambda place: place.began_at)

    def __iter__(self) -> Iterator[list[ImportedConversation]]:
        """Yield each conversation in the order in which they began, with its other branches."""
        for place in self._places:
            place.source.file.seek(place.start)
            text = place.source.file.read(place.size)
            yield self._read(place.source, place.location, text)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def _find(self, path: Path) -> Iterator[_Place]:
        if not path.is_file():
            raise InvalidInput(
                str(path), "is not a file that can be read twice; write a pipe's content to a file"
            )
        try:
            for source in self._sources(path):
                for found in find_values(source.file):
                    place = self._check(source, found)
                    if place is not None:
                        yield place
        except (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile) as error:
            raise InvalidInput(str(path), f"cannot be read: {error}") from error

    def _sources(self, path: Path) -> Iterator[_Source]:
        match path.suffix.lower():
            case ".gz":
                yield self._unpacked(path, str(path), gzip.open(path))  # noqa: SIM115 - closed there
            case ".xz":
                yield self._unpacked(path, str(path), lzma.open(path))  # noqa: SIM115 - closed there
            case ".zip":
                yield from self._members(path)
            case _:
                file = self._open.enter_context(path.open("rb"))
                yield _Source(str(path), path.name, file)

    def _members(self, path: Path) -> Iterator[_Source]:
        with zipfile.ZipFile(path) as archive:
            names = [
                name
                for name in archive.namelist()
                if fnmatch(PurePosixPath(name).name, _IN_ARCHIVES)
            ]
            if not names:
                raise InvalidInput(
                    str(path),
                    f"has no {_IN_ARCHIVES} in it; unpack it, and give "
                    "the files with the conversations",
                )
            for name in sorted(names):
                yield self._unpacked(path, f"{path}/{name}", archive.open(name))

    def _unpacked(self, path: Path, name: str, packed: Any) -> _Source:
        file = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - in a stack
        with packed:
            shutil.copyfileobj(packed, file, 1 << 20)
        file.seek(0)
        return _Source(name, path.name, file)

    def _check(self, source: _Source, found: FoundValue) -> _Place | None:
        """Read a conversation for its date, or note why it cannot be read."""
        location = source.name + found.location
        if not found.complete:
            reason = "is not JSON: the file ends before it does"
            self.failures.append(ImportFailure(location, None, reason))
            return None
        conversations, failure = self._read(source, found.location, found.text)
        if failure is not None:
            self.failures.append(failure)
            return None
        self.count += len(conversations)
        began_at = conversations[0].began_at or _NO_DATE
        return _Place(began_at, source, found.start, len(found.text), found.location)

    def _read(
        self, source: _Source, at: str, text: bytes
    ) -> tuple[list[ImportedConversation], ImportFailure | None]:
        location, value = source.name + at, None
        try:
            value = loads(text.decode())
            # A digest of the messages would be a key too, but it would survive their erasure.
            read = read_conversation(
                value, format=self._format, branches=self._branches, key=source.short + at
            )
        except EventStoreError as error:  # an InvalidInput is a ValueError too
            return [], ImportFailure(location, _key(value), str(error))
        except ValueError as error:
            return [], ImportFailure(location, None, f"is not JSON: {error}")
        return [replace(one, key=self._prefix + one.key, location=location) for one in read], None


def _key(value: Any) -> str | None:
    """Return the key of a conversation that cannot be read, if it has one."""
    names = ("id", "conversation_id", "uuid") if isinstance(value, dict) else ()
    return next(
        (str(value[name]) for name in names if isinstance(value.get(name), str | int)), None
    )
