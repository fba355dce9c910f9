"""`eventstore conversations` and `eventstore search`: find where something was said."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from eventstore.cli.options import (
    READ_SECONDS,
    After,
    AsOfOption,
    Database,
    ExtensionsOption,
    Json,
    User,
    open_store,
    parse_as_of,
)
from eventstore.cli.output import format_timestamp, print_json, print_table, report_more
from eventstore.cli.reading.show import message_json, summary

__all__ = ["conversations", "search"]


def conversations(
    user: User,
    archived: Annotated[
        bool | None,
        typer.Option(
            "--archived/--active", help="Only archived or only active conversations. Default: both."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Print at most N conversations.")
    ] = 100,
    after: After = None,
    as_of: AsOfOption = None,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Print a user's conversations, newest activity first, now or as they were.

    Exit status 2 if an option has a value that it does not take.
    """
    with open_store(database, extensions) as store:
        found = (
            store.user(user)
            .within(READ_SECONDS)
            .conversations.list(
                archived=archived, limit=limit, after=after, as_of=parse_as_of(as_of)
            )
        )
    if json:
        print_json([asdict(one) for one in found])
    else:
        print_table(
            ("title", "status", "messages", "last activity (UTC)", "key", "id"),
            (
                (
                    one.title or "",
                    one.status,
                    one.message_count,
                    format_timestamp(one.last_activity_at),
                    one.key or "",
                    str(one.id),
                )
                for one in found
            ),
            empty="no conversations",
        )
    report_more(found)


def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The words to look for.")],
    user: User,
    conversation: Annotated[
        str | None,
        typer.Option(
            "--conversation", metavar="ID_OR_KEY", help="Only messages of this conversation."
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Print at most N messages.")] = 50,
    after: After = None,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Print a user's messages that have these words, newest first.

    Each word must occur at the beginning of a word, in upper or lower case; in scripts
    without spaces anywhere. For tasks see `eventstore tasks --search`. Exit status 1 if
    the user has no such conversation; 2 if an option has a value that it does not take.
    """
    with open_store(database, extensions) as store:
        found = (
            store.user(user)
            .within(READ_SECONDS)
            .messages.search(text, conversation=conversation, limit=limit, after=after)
        )
    if json:
        print_json([{"conversation_id": one.conversation_id, **message_json(one)} for one in found])
    else:
        print_table(
            ("time (UTC)", "sender", "content", "position", "conversation"),
            (
                (
                    format_timestamp(one.created_at),
                    one.sender,
                    summary(one),
                    one.position,
                    str(one.conversation_id),
                )
                for one in found
            ),
            empty="no messages",
        )
    report_more(found)
