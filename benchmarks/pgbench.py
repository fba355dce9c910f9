"""
Let pgbench send the statements of an append: the floor under everything a client can do.

The statements are the library's own. Their parameters stay parameters, sent each time, and all go
out in one pipeline with one sync, as prepared statements. Ids differ from call to call: they end in
`MARK`, which each call replaces by its own number.

Hashes and digests stay those of the one append that the script was made from, so a log written
this way does not verify. It belongs to a user of its own.
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

__all__ = ["Pgbench", "marked_ids"]

MARK = "999999999999"
"""Twelve digits, the last group of a UUID: in decimal, so that pgbench can count them up."""

_FIRST = 100_000_000_000
_PARAMETER = re.compile(r"\$(\d+)")
_LITERAL = re.compile(r"'[^']*'")


def marked_ids() -> NewId:
    """Return a source of UUIDv7 that differ from each other and all end in `MARK`."""
    numbers = itertools.count(1)
    return lambda: UUID(f"01980000-0000-7{next(numbers):03d}-8000-{MARK}")


@dataclass(slots=True)
class Pgbench:
    """
    One append as a pgbench script, to be run many times.

    :ivar statements: all of one transaction, in order; ids made by `marked_ids`.
    :ivar warm_up: transactions of each run that are not counted: PostgreSQL plans a new
        connection's first executions anew.
    """

    server: Server
    database: str
    statements: Sequence[Statement]
    warm_up: int = 20
    calls: int = 0

    def run(self, transactions: int) -> Samples:
        """Run the script on a new connection and return the latency of each transaction."""
        with TemporaryDirectory() as name:
            folder = Path(name)
            script = folder / "append.sql"
            script.write_text(self._script(), encoding="utf-8")
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
            for place, value in enumerate(statement.params, 1)
            for argument in ("--define", f"p{number}_{place}={_as_text(value)}")
        ]

    def _pgbench(self, *arguments: str) -> None:
        where = ("--host", str(self.server.folder), "--username", "postgres", self.database)
        done = subprocess.run(
            [str(self.server.programs / "pgbench"), *arguments, *where],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"pgbench failed: {done.stderr}")


def _with_variables(statement: Statement, number: int) -> str:
    """Return the SQL with pgbench variables where its parameters were."""

    def variable(match: re.Match[str]) -> str:
        place = int(match[1])
        name = f":p{number}_{place}"
        if MARK in _as_text(statement.params[place - 1]):
            return f"replace({name}::text, '{MARK}', :n::text)"
        return name

    return _PARAMETER.sub(variable, _LITERAL.sub(_without_colon, statement.sql.strip()))


def _without_colon(literal: re.Match[str]) -> str:
    """Return a literal in which pgbench sees no variable, as it would in 'HH24:MI'."""
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
        case _:
            raise TypeError(f"pgbench has no variable of {type(value).__name__}")
