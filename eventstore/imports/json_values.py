"""
Find the JSON values of a large file one at a time, so that only one of them is in memory.

A file is an array of values, or one value a line, or one value after the other. This only finds
where a value begins and ends, by counting brackets outside of strings; `json_codec.loads` reads it.
So a value means here what it means everywhere in the store, duplicate keys, long numbers and lone
surrogates included. A library that parses incrementally would have numbers and strings of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["FoundValue", "find_values"]

_CHUNK = 1 << 18
# How the second line of an indented object begins, and a line that is an object never does.
_INDENTED = (b" ", b"\t", b"\r", b"\n", b'"')
_BOM = b"\xef\xbb\xbf"

# A match skips whole strings and what is none, up to the next bracket. The quantifiers are
# possessive, so a string whose end is not read yet makes no match and costs no backtracking.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BRACKET = re.compile(
    rb'(?:[^"{}\[\]]*+' + _STRING + rb')*+[^"{}\[\]]*+[{}\[\]]',
    re.DOTALL,
)
_BRACKET_OR_COMMA = re.compile(
    rb'(?:[^"{}\[\],]*+' + _STRING + rb')*+[^"{}\[\],]*+[{}\[\],]',
    re.DOTALL,
)
_SPACE = re.compile(rb"[ \t\r\n]*+")


@dataclass(frozen=True, slots=True)
class FoundValue:
    """
    A value of a file.

    :ivar location: where it is, to put behind the name of the file: `:7`, `[3]`, or nothing.
    :ivar start: its first byte; `text` is its JSON.
    :ivar complete: False if the file ends before the value does.
    """

    location: str
    start: int
    text: bytes
    complete: bool = True


def find_values(file: BinaryIO) -> Iterator[FoundValue]:
    """
    Yield the values of a file.

    Memory holds the longest value three times, and no more.

    :param file: at its start, and seekable.
    """
    begin = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
    file.seek(begin)
    first, next_byte = _first_line(file)
    file.seek(begin)
    if first.startswith(b"["):
        return _Scanner(file, begin, in_array=True).values()
    if not first.endswith((b"}", b"]")) and next_byte in _INDENTED:
        return _Scanner(file, begin, in_array=False).values()
    return _lines(file, begin)


def _first_line(file: BinaryIO) -> tuple[bytes, bytes]:
    """
    Return the first line that is not blank, without spaces around it, and the byte after it.

    Of an array only the beginning is returned, because all of it may be one line.
    """
    for line in iter(lambda: file.readline(_CHUNK), b""):
        if line.lstrip().startswith(b"["):
            return line.strip(), b""
        if line.strip():
            rest = b"" if line.endswith(b"\n") else file.readline()
            return (line + rest).strip(), file.read(1)
    return b"", b""


def _lines(file: BinaryIO, start: int) -> Iterator[FoundValue]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield FoundValue(f":{number}", start, line)
        start += len(line)


class _Scanner:
    """
    Finds values by counting brackets.

    `_buffer` holds what is read of the file from `_offset` on: the value that is being looked for,
    and what follows it in the same chunk.
    """

    def __init__(self, file: BinaryIO, offset: int, *, in_array: bool) -> None:
        self._file = file
        self._offset = offset
        self._buffer = b""
        self._in_array = in_array
        self._depth = 0
        self._number = 0

    def values(self) -> Iterator[FoundValue]:
        """Yield the values; what cannot be told apart any more is one incomplete value."""
        pattern = _BRACKET_OR_COMMA if self._in_array else _BRACKET
        top = int(self._in_array)
        begin = position = 0
        while True:
            match = (pattern if self._depth <= top else _BRACKET).match(self._buffer, position)
            if match is None:
                chunk = self._file.read(max(_CHUNK, len(self._buffer) - begin))
                self._offset += begin
                self._buffer = self._buffer[begin:] + chunk
                begin, position = 0, position - begin
                if not chunk:
                    yield from self._end(len(self._buffer))
                    return
                continue
            position = match.end()
            character = self._buffer[position - 1 : position]
            if character in b"{[":
                self._depth += 1
                if self._in_array and self._depth == 1:
                    begin = position
            elif character == b",":
                yield from self._found(begin, position - 1)
                begin = position
            else:
                self._depth = max(0, self._depth - 1)
                if self._in_array and self._depth == 0:
                    yield from self._found(begin, position - 1)
                    begin = position
                elif self._depth == 0:
                    yield from self._found(begin, position)
                    begin = position

    def _end(self, end: int) -> Iterator[FoundValue]:
        """Yield what is left where the file ends: a last value, and one that is cut off."""
        if self._in_array and self._depth == 1:
            yield from self._found(0, end)
        if self._in_array and self._depth:
            yield FoundValue(f"[{self._number}]", self._offset + end, b"", complete=False)
        else:
            yield from self._found(0, end, complete=False)

    def _found(self, begin: int, end: int, *, complete: bool = True) -> Iterator[FoundValue]:
        space = _SPACE.match(self._buffer, begin, end)
        begin = space.end() if space else begin
        if begin < end:
            location = f"[{self._number}]" if self._in_array or self._number else ""
            text = self._buffer[begin:end]
            yield FoundValue(location, self._offset + begin, text, complete)
            self._number += 1
