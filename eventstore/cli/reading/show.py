"""`eventstore history` and `eventstore tasks`: print one user's data, now or as it was."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, cast
from zoneinfo import ZoneInfo

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
from eventstore.cli.output import format_timestamp, print_json, print_table, report_more, shorten
from eventstore.errors import InvalidInput
from eventstore.events.task_fields import Priority
from projections.models.message import MessageView
from projections.models.task import TaskView
from projections.models.tool_call import ToolCallView
from projections.queries.history import Source
from projections.queries.task_filters import Due, TaskOrder

__all__ = ["call_json", "history", "message_json", "summary", "tasks"]

_WIDTH = 100


def history(
    user: User,
    conversation: Annotated[
        str,
        typer.Option(
            "--conversation", metavar="ID_OR_KEY", help="The id or the key of the conversation."
        ),
    ],
    source: Annotated[
        str,
        typer.Option("--source", help="What to read: projection (the tables) or events (the log)."),
    ] = "projection",
    as_of: AsOfOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="Only the newest N messages.")
    ] = None,
    after: After = None,
    output: Annotated[
        str,
        typer.Option(
            "--format",
            help="table, or openai: one JSON array of the chat messages as they were recorded.",
        ),
    ] = "table",
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Print a conversation, oldest message first; both sources give the same answer.

    Exit status 1 if the user has no such conversation; 2 if an option has a value
    that it does not take.
    """
    if output not in {"table", "openai"}:
        raise InvalidInput("--format", f"{output!r} is not a format; give table or openai")
    # The store itself refuses another source, so `--source` has no list of them.
    with open_store(database, extensions) as store:
        messages = (
            store.user(user)
            .within(READ_SECONDS)
            .history(
                conversation,
                source=cast("Source", source),
                as_of=parse_as_of(as_of),
                limit=limit,
                after=after,
            )
        )
    if output == "openai":
        print_json([message.body for message in messages])
    elif json:
        print_json([message_json(message) for message in messages])
    else:
        print_table(
            ("position", "time (UTC)", "sender", "content"),
            (
                (one.position, format_timestamp(one.created_at), one.sender, summary(one))
                for one in messages
            ),
            empty="no messages",
        )
    report_more(messages)


def tasks(
    user: User,
    completed: Annotated[
        bool | None, typer.Option("--completed/--open", help="Only completed or only open tasks.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only tasks with this tag.")] = None,
    priority: Annotated[
        str | None,
        typer.Option("--priority", help="Only tasks that are low, normal, high or urgent."),
    ] = None,
    due: Annotated[
        str | None,
        typer.Option("--due", help="Only tasks that are overdue, due today, or due this week."),
    ] = None,
    zone: Annotated[
        str, typer.Option("--zone", help="The user's time zone, such as Europe/Berlin, for --due.")
    ] = "UTC",
    search: Annotated[
        str | None,
        typer.Option(
            "--search",
            metavar="TEXT",
            help="Only tasks whose title or description has these words.",
        ),
    ] = None,
    order: Annotated[
        str, typer.Option("--order", help="Sort by created, updated, title, manual or due.")
    ] = "created",
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="Sort in reverse order.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Print at most N tasks.")] = 1000,
    after: After = None,
    as_of: AsOfOption = None,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Print a user's tasks, now or as they were; none for a user who does not exist.

    Exit status 2 if an option has a value that it does not take.
    """
    with open_store(database, extensions) as store:
        found = (
            store.user(user)
            .within(READ_SECONDS)
            .tasks.list(
                completed=completed,
                tag=tag,
                priority=cast("Priority | None", priority),
                due=cast("Due | None", due),
                zone=zone,
                search=search,
                order=cast("TaskOrder", order),
                newest_first=newest_first,
                limit=limit,
                after=after,
                as_of=parse_as_of(as_of),
            )
        )
    if json:
        print_json([asdict(task) for task in found])
    else:
        print_table(
            (
                "",
                "title",
                "due",
                "priority",
                "tags",
                "created (UTC)",
                "completed (UTC)",
                "id",
            ),
            (
                (
                    "x" if task.completed else "-",
                    task.title,
                    _due(task),
                    task.priority,
                    ", ".join(task.tags),
                    format_timestamp(task.created_at),
                    format_timestamp(task.completed_at),
                    str(task.id),
                )
                for task in found
            ),
            empty="no tasks",
        )
    report_more(found)


def call_json(call: ToolCallView) -> dict[str, Any]:
    """Return a tool call as `history --json` prints it."""
    return {
        "id": str(call.id),
        "call_id": call.call_id,
        "name": call.name,
        "arguments": call.arguments,
        "status": call.status,
        "output": call.output,
        "error": call.error,
        "requested_at": call.requested_at,
        "finished_at": call.finished_at,
        "duration_ms": call.duration_ms,
    }


def _due(task: TaskView) -> str:
    """Return when a task is due: a day, or the time in its own zone, with the zone's name."""
    if task.due_at is None:
        return "" if task.due_on is None else task.due_on.isoformat()
    zone = task.due_zone or "UTC"
    return f"{task.due_at.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M} {zone}"


def message_json(message: MessageView) -> dict[str, Any]:
    """Return a message as `history --json` prints it."""
    return {
        "id": message.id,
        "position": message.position,
        "sender": message.sender,
        "content": message.content,
        "tool_calls": [call_json(call) for call in message.tool_calls],
        "created_at": message.created_at,
        "edited_at": message.edited_at,
    }


def summary(message: MessageView) -> str:
    """Return the text of a message and its tool calls, shortened for a table."""
    calls = ", ".join(f"{call.name}({call.arguments}) {call.status}" for call in message.tool_calls)
    content = message.content if isinstance(message.content, str) else ""
    return shorten(" ".join(part for part in (content, calls) if part), _WIDTH)
