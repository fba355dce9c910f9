"""
Let pgbench send the statements of an append: no client could be faster.

The statements are those of the library. They are prepared, their parameters are sent each time, and
all go out in one pipeline with one Sync. Ids differ from call to call: they end in `MARK`, which
each call replaces with its own number.

Hashes and digests stay those of the one append that the script was made from, so verify reports a
log that is written this way. It is the log of a separate user.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from benchmarks.measure import Samples
from benchmarks.server import Server
from eventstore.database.plan import Statement
from eventstore.log.ids import NewId

__all__ = ["MARK", "Pgbench", "marked_ids"]

MARK = "999999999999"
"""The last group of a UUID, twelve decimal digits, because pgbench can count in decimal only."""

_FIRST = 100_000_000_000
_PARAMETER = re.compile(r"\$(\d+)")
_LITERAL = re.compile(r"'[^']*'")


def marked_ids() -> NewId:
    """Return a function that makes UUIDv7s, each another one and all of them ending in `MARK`."""
    numbers = itertools.count(1)
    return lambda: UUID(f"01980000-0000-7{next(numbers):03d}-8000-{MARK}")


@dataclass(slots=True)
class Pgbench:
    """
    One append as a pgbench script, which can be run many times.

    :ivar statements: the statements of one transaction, in order; their ids are from `marked_ids`.
    :ivar warm_up: transactions at the start of a run that are not counted, because PostgreSQL plans
        the first executions on a new connection anew.
    :ivar calls: transactions that were run so far.
    """

    server: Server
    database: str
    statements: Sequence[Statement]
    warm_up: int = 20
    calls: int = 0

    def run(self, transactions: int) -> Samples:
        """
        Run the script on a new connection and return the latency of each transaction.

        :raises RuntimeError: pgbench failed.
        """
        with TemporaryDirectory() as name:
            folder = Path(name)
            script = folder / "append.sql"
            script.write_text(self._script(), encoding="utf-8")
            # A warm-up is needed in each run, because each run has a new connection.
            count = transactions + self.warm_up
            self._pgbench(
                "--no-vacuum", "--protocol", "prepared", "--client", "1",
                "--transactions", str(count), "--file", str(script),
                "--log", "--log-prefix", str(folder / "latency"),
                "--define", f"n={_FIRST + self.calls}", *self._defines(),
            )  # fmt: skip
            self.calls += count
            (log,) = folder.glob("latency.*")
            lines = log.read_text(encoding="utf-8").splitlines()[self.warm_up :]
        return Samples([int(line.split()[2]) / 1_000_000 for line in lines])

    def _script(self) -> str:
        lines = [r"\set n :n + 1", r"\startpipeline"]
        for number, statement in enumerate(self.statements):
            lines.append(_with_variables(statement, number) + ";")
        return "\n".join([*lines, r"\endpipeline", ""])

    def _defines(self) -> list[str]:
        return [
            argument
            for number, statement in enumerate(self.statements)
            for index, value in enumerate(statement.params, 1)
            if value is not None
            for argument in ("--define", f"p{number}_{index}={_as_text(value)}")
        ]

    def _pgbench(self, *arguments: str) -> None:
        target = ("--host", str(self.server.folder), "--username", "postgres", self.database)
        done = subprocess.run(
            [str(self.server.programs / "pgbench"), *arguments, *target],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"pgbench failed: {done.stderr}")


def _with_variables(statement: Statement, number: int) -> str:
    """Return the SQL of a statement with pgbench variables in place of its parameters."""

    def variable(match: re.Match[str]) -> str:
        index = int(match[1])
        name, value = f":p{number}_{index}", statement.params[index - 1]
        if value is None:
            return "null"
        if MARK in _as_text(value):
            return f"replace({name}::text, '{MARK}', :n::text)"
        return name

    return _PARAMETER.sub(variable, _LITERAL.sub(_without_colon, statement.sql.strip()))


def _without_colon(literal: re.Match[str]) -> str:
    """Return a literal without colons, where pgbench would find a variable: 'HH24:MI'."""
    text = literal[0]
    return "E" + text.replace("\\", r"\\").replace(":", r"\x3a") if ":" in text else text


def _as_text(value: object) -> str:
    """Return a parameter in PostgreSQL's text form."""
    match value:
        case bool():
            return "true" if value else "false"
        case bytes():
            return rf"\x{value.hex()}"
        case str() | int() | UUID():
            return str(value)
        case list():
            return f"{{{','.join(map(_as_item, value))}}}"
        case _:
            raise TypeError(f"pgbench has no variable of {type(value).__name__}")


def _as_item(value: object) -> str:
    """Return an item of an array in PostgreSQL's text form."""
    if value is None:
        return "null"
    return '"' + _as_text(value).replace("\\", r"\\").replace('"', r"\"") + '"'
