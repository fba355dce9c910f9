"""`eventstore import`: import conversations from what other programs export."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from eventstore.cli.options import Database, Json, open_store
from eventstore.cli.output import pluralize, print_fields, print_json, printable, report_progress
from eventstore.errors import InvalidInput
from eventstore.events.fields import check_user_id
from eventstore.imports.conversation import ImportedConversation
from eventstore.imports.export_files import ExportFiles
from eventstore.imports.formats import Branches, Format
from eventstore.store.chat_import import Imported

__all__ = ["import_files"]

_BATCH = 64
"""Conversations imported by one call: enough to keep all jobs busy, few enough for memory."""

_BATCH_MESSAGES = 2_000
"""Messages after which a call has enough, because some conversations are very long."""

_SHOWN_FAILURES = 50


def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            dir_okay=False,
            readable=True,
            help="JSON Lines with a conversation a line, or JSON with one or an array of them; "
            "plain, .gz, .xz, or the .zip that ChatGPT or Claude sent.",
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
    format: Annotated[  # noqa: A002 - the option's name
        Format,
        typer.Option("--format", help="The format; auto tells it for each conversation."),
    ] = Format.AUTO,
    branches: Annotated[
        Branches,
        typer.Option(
            "--branches",
            help="Of a conversation with edits and second answers, import the current branch, or "
            "all, each as a conversation of its own.",
        ),
    ] = Branches.CURRENT,
    key_prefix: Annotated[
        str,
        typer.Option(
            "--key-prefix",
            help="Text to put before each id, so that equal ids in several files stay apart.",
        ),
    ] = "",
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", min=1, max=64, help="How many users' conversations are imported at once."
        ),
    ] = 2,
    database: Database = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing, and tell what would be written.")
    ] = False,
    json: Json = False,
) -> None:
    """
    Import conversations of ChatGPT, Claude, Open WebUI and OpenAI's APIs.

    Each conversation is imported completely or not at all, in the order in which
    they began. Run the same command again after an interruption, or with a newer
    export: what is there already is skipped, and a conversation that has grown
    gets what is new.

    A conversation that cannot be imported is reported with its place and reason,
    and stops no other.

    Exit status 1 if there was one; 2 if a file cannot be read.
    """
    if (user is None) == (users is None):
        raise InvalidInput("--user", "give either --user USER or --users N")
    if user is not None:
        check_user_id(user)
    started = time.monotonic()
    imported = Imported()
    with ExportFiles(files, format=format, branches=branches, key_prefix=key_prefix) as exported:
        imported += Imported(len(exported.failures), failures=tuple(exported.failures))
        try:
            with (
                open_store(database, jobs=jobs) as store,
                report_progress("conversations", exported.count, quiet=json) as progress,
            ):
                for batch in _batches(exported, user, users or 1):
                    imported += store.import_conversations(batch, jobs=jobs, dry_run=dry_run)
                    progress.advance(len(batch))
        finally:
            if not json:
                _print_failures(imported)
    _print(imported, time.monotonic() - started, dry_run=dry_run, json=json)
    if imported.failed:
        raise typer.Exit(1)


def _batches(
    exported: ExportFiles, user: str | None, users: int
) -> Iterator[list[tuple[str, ImportedConversation]]]:
    """Yield some conversations at a time, each with its user; branches go to one user."""
    batch: list[tuple[str, ImportedConversation]] = []
    messages = 0
    for found in exported:
        owner = _user_of(found[0].key, users) if user is None else user
        batch += [(owner, one) for one in found]
        messages += sum(len(one.messages) for one in found)
        if len(batch) >= _BATCH or messages >= _BATCH_MESSAGES:
            yield batch
            batch, messages = [], 0
    if batch:
        yield batch


def _user_of(key: str, users: int) -> str:
    # Python's `hash` of a text differs from process to process, and a second run must find it.
    return f"user-{zlib.crc32(key.encode()) % users + 1}"


def _print_failures(imported: Imported) -> None:
    for one in imported.failures[:_SHOWN_FAILURES]:
        named = "" if one.key is None else f"conversation {one.key!r}: "
        sys.stderr.write(printable(f"not imported: {one.location}: {named}{one.reason}") + "\n")
    if imported.failed > _SHOWN_FAILURES:
        more = pluralize(imported.failed - _SHOWN_FAILURES, "more conversation")
        sys.stderr.write(f"not imported: {more}; --json lists all\n")


def _print(imported: Imported, seconds: float, *, dry_run: bool, json: bool) -> None:
    fields: dict[str, Any] = {
        "conversations": imported.conversations,
        "messages": imported.messages,
        "tool_calls": imported.tool_calls,
        "events": imported.events,
        "imported": imported.imported,
        "grown": imported.grown,
        "skipped": imported.skipped,
        "failed": imported.failed,
    }
    if json:
        failures = [asdict(one) for one in imported.failures]
        fields |= {"failures": failures}
    elif dry_run:
        sys.stderr.write("dry run: nothing was written; this is what would be\n")
    fields |= {"dry_run": dry_run, "seconds": round(seconds, 3)}
    if json:
        print_json(fields)
    else:
        print_fields(fields)
