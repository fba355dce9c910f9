"""`eventstore audit`: list the recorded tool calls, and run them again for comparison."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from eventstore.cli.options import (
    READ_SECONDS,
    AsOfOption,
    Database,
    ExtensionsOption,
    Json,
    OneUser,
    load_object,
    open_store,
    parse_as_of,
)
from eventstore.cli.output import (
    console,
    format_timestamp,
    pluralize,
    print_json,
    print_table,
    shorten,
)
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

_WIDTH = 80

_STATUSES = ("pending", "succeeded", "failed", "abandoned", "erased")


def audit(
    user: OneUser = None,
    conversation: Annotated[
        str | None,
        typer.Option(
            "--conversation",
            metavar="ID_OR_KEY",
            help="Only the conversation with this id or key; needs --user.",
        ),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            help="Only calls with this status: pending, succeeded, failed, abandoned or erased.",
        ),
    ] = None,
    as_of: AsOfOption = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="MODULE:NAME",
            help="Run the calls that succeeded again and compare their results. NAME is a dict of "
            "your functions by tool name, imported from MODULE; they should have no side effects.",
        ),
    ] = None,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    List the tool calls in the log: the request, its outcome and what it caused.

    Exit status 1 if the conversation does not exist, if a log cannot be read
    (the calls of all other users are listed first), or if a call that --run
    repeats has another result than the recorded one; 2 if MODULE:NAME cannot be
    imported or is not a dict.
    """
    if status is not None and status not in _STATUSES:
        raise InvalidInput(
            "--status", f"{status!r} is not a status; give one of {', '.join(_STATUSES)}"
        )
    if conversation is not None and user is None:
        raise InvalidInput("--conversation", "needs --user, because a key is unique per user only")
    with open_store(database, extensions) as store:
        users = [user] if user is not None else store.users()
        entries, failures = _read_entries(store, users, conversation, as_of)
    # A query cannot select by status: it follows from pairing a request with its outcome.
    entries = [entry for entry in entries if status is None or entry.status == status]
    all_same = True
    if run is not None:
        all_same = _run_again(entries, run, json=json)
    elif json:
        print_json([entry_json(entry) for entry in entries])
    else:
        _print(entries)
    # Only now, so that the calls of all other users are printed.
    if failures:
        raise Incomplete(failures)
    if not all_same:
        raise typer.Exit(1)


def _read_entries(
    store: EventStore, users: Sequence[str], conversation: str | None, as_of: str | None
) -> tuple[list[AuditEntry], dict[str, EventStoreError]]:
    """
    Return the calls of these users, and an error for each user whose log cannot be read.

    :raises CorruptLog: the log of the only user cannot be read.
    """
    entries: list[AuditEntry] = []
    failures: dict[str, EventStoreError] = {}
    for user_id in users:
        try:
            view = store.user(user_id).within(READ_SECONDS)
        except InvalidInput as error:  # an id that only tampering puts into a table
            if len(users) == 1:
                raise
            failures[user_id] = error
            continue
        try:
            entries += view.audit(conversation=conversation, as_of=parse_as_of(as_of))
        except CorruptLog as error:
            if len(users) == 1:
                raise
            failures[user_id] = error
    return entries, failures


def entry_json(entry: AuditEntry) -> dict[str, Any]:
    """Return a tool call as `audit --json` prints it."""
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
        "recorded_at": entry.recorded_at,
        "caused": [{"position": event.position, "type": event.type} for event in entry.caused],
    }


def _print(entries: list[AuditEntry]) -> None:
    if not entries:
        console.print("no tool calls")
        return
    print_table(
        ("user", "position", "requested (UTC)", "call", "status", "ms", "caused"),
        (
            (
                entry.user_id,
                entry.position,
                format_timestamp(entry.requested_at),
                ""
                if entry.status == "erased"
                else shorten(f"{entry.name}({entry.arguments})", _WIDTH),
                entry.status,
                "" if entry.duration_ms is None else f"{entry.duration_ms:.1f}",
                ", ".join(f"{event.type} {event.position}" for event in entry.caused),
            )
            for entry in entries
        ),
    )
    counts = Counter[str](entry.status for entry in entries)
    by_status = ", ".join(f"{counts[status]:,} {status}" for status in _STATUSES)
    console.print(f"{pluralize(len(entries), 'tool call')}: {by_status}")


def _run_again(entries: list[AuditEntry], reference: str, *, json: bool) -> bool:
    """Run calls again, print the results, and return whether none differs."""
    functions = load_object(reference)
    if not isinstance(functions, Mapping):
        raise ConfigurationError(f"--run {reference}: is not a dict of functions by tool name")
    # Standard output holds the answer alone, so what the functions print goes to standard error.
    with redirect_stdout(sys.stderr):
        results = rerun(entries, functions)
    if json:
        print_json([_rerun_json(result) for result in results])
    else:
        print_table(
            ("user", "position", "tool", "result", "error"),
            (
                (one.entry.user_id, one.entry.position, one.entry.name, one.result, one.error)
                for one in results
            ),
        )
    return all(one.result in {"same", "skipped"} for one in results)


def _rerun_json(result: Rerun) -> dict[str, Any]:
    return entry_json(result.entry) | {
        "result": result.result,
        "rerun_output": result.output,
        "rerun_error": result.error,
    }
