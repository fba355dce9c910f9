"""`eventstore audit`: the trail of tool calls, and running recorded calls again."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from eventstore.cli.options import (
    AsOfOption,
    Database,
    ExtensionsOption,
    Json,
    OneUser,
    load_object,
    open_store,
    parse_as_of,
)
from eventstore.cli.output import console, pluralize, print_json, print_table, when
from eventstore.errors import (
    ConfigurationError,
    CorruptLog,
    EventStoreError,
    Incomplete,
    InvalidInput,
)
from eventstore.store.store import EventStore
from projections.queries.tool_call_audit import AuditEntry, Rerun, rerun

__all__ = ["audit", "entry_json"]

_STATUSES = ("pending", "succeeded", "failed", "erased")


def audit(
    user: OneUser = None,
    conversation: Annotated[
        str | None,
        typer.Option("--conversation", metavar="ID_OR_KEY", help="Only this one; needs --user."),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option("--status", help="Only pending, succeeded, failed or erased calls."),
    ] = None,
    as_of: AsOfOption = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="MODULE:NAME",
            help="Run the calls again against a dict of functions of yours, by tool name, and "
            "compare the results. They are your functions: give ones without side effects.",
        ),
    ] = None,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    List tool calls from the log: what was asked for, what came of it, what is still pending.

    With --run, exit status 1 if a call gives another result now than was recorded.
    """
    if status is not None and status not in _STATUSES:
        raise InvalidInput("--status", f"{status!r}; give one of {', '.join(_STATUSES)}")
    if conversation is not None and user is None:
        raise InvalidInput("--conversation", "needs --user: conversations belong to one")
    with open_store(database, extensions) as store:
        users = [user] if user is not None else store.users()
        entries, failures = _entries(store, users, conversation, as_of)
    entries = [one for one in entries if status is None or one.status == status]
    same = True
    if run is not None:
        same = _run(entries, run, json=json)
    elif json:
        print_json([entry_json(entry) for entry in entries])
    else:
        _print(entries)
    if failures:
        raise Incomplete(failures)
    if not same:
        raise typer.Exit(1)


def _entries(
    store: EventStore, users: Sequence[str], conversation: str | None, as_of: str | None
) -> tuple[list[AuditEntry], dict[str, EventStoreError]]:
    """Return the calls of some users; of several, one whose log cannot be read stops nobody."""
    entries: list[AuditEntry] = []
    failures: dict[str, EventStoreError] = {}
    for one in users:
        try:
            entries += store.user(one).audit(conversation=conversation, as_of=parse_as_of(as_of))
        except CorruptLog as error:
            if len(users) == 1:
                raise
            failures[one] = error
    return entries, failures


def entry_json(entry: AuditEntry) -> dict[str, Any]:
    """Return a call as `audit --json` prints it."""
    return {
        "user_id": entry.user_id,
        "conversation_id": entry.conversation_id,
        "call_id": entry.call_id,
        "name": entry.name,
        "arguments": entry.arguments,
        "status": entry.status,
        "output": entry.output,
        "error": entry.error,
        "requested_at": entry.requested_at,
        "finished_at": entry.finished_at,
        "duration_ms": entry.duration_ms,
        "position": entry.position,
        "caused": [{"position": one.position, "type": one.type} for one in entry.caused],
    }


def _print(entries: list[AuditEntry]) -> None:
    print_table(
        ("user", "position", "requested (UTC)", "call", "status", "ms", "caused"),
        (
            (
                entry.user_id,
                entry.position,
                when(entry.requested_at),
                "" if entry.status == "erased" else f"{entry.name}({entry.arguments})"[:80],
                entry.status,
                "" if entry.duration_ms is None else f"{entry.duration_ms:.1f}",
                ", ".join(f"{one.type} {one.position}" for one in entry.caused),
            )
            for entry in entries
        ),
    )
    counts = Counter[str](entry.status for entry in entries)
    told = ", ".join(f"{counts[status]:,} {status}" for status in _STATUSES)
    console.print(f"{pluralize(len(entries), 'tool call')}: {told}")


def _run(entries: list[AuditEntry], place: str, *, json: bool) -> bool:
    """Run calls again, show what came of it, and tell whether all gave the same."""
    functions = load_object(place)
    if not isinstance(functions, Mapping):
        raise ConfigurationError(f"--run {place}: is not a dict of functions by tool name")
    with redirect_stdout(sys.stderr):  # what they print is no part of the answer
        results = rerun(entries, functions)
    if json:
        print_json([_rerun_json(one) for one in results])
    else:
        print_table(
            ("user", "position", "tool", "result", "error"),
            (
                (one.entry.user_id, one.entry.position, one.entry.name, one.result, one.error)
                for one in results
            ),
        )
    return all(one.result in {"same", "skipped"} for one in results)


def _rerun_json(one: Rerun) -> dict[str, Any]:
    return entry_json(one.entry) | {
        "result": one.result,
        "rerun_output": one.output,
        "rerun_error": one.error,
    }
