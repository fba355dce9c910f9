"""
Turn the messages of a history into the list that a model is given next.

The tool calls' own story decides what answers what: a call that has ended names the position at
which it ended, and the item there is its answer. So an answer counts here if and only if it counts
everywhere else, and second answers and orphans are what is left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args
from uuid import UUID

from eventstore.events.fields import check_choice, has_visible, plain_text
from eventstore.events.items import CallAnswer, Part, RequestedCall, read_parts
from eventstore.events.json_codec import dumps
from projections.model_input.anthropic import Anthropic
from projections.model_input.chat_completions import ChatCompletions
from projections.model_input.content import plain
from projections.model_input.formats import (
    Answer,
    Call,
    Entry,
    Format,
    FormatName,
    Role,
    format_of,
    is_for_client,
)
from projections.model_input.responses import Responses
from projections.models.message import MessageView
from projections.models.tool_call import ToolCallView

__all__ = ["FORMATS", "Pending", "arrange", "check_options"]

type Pending = Literal["leave_out", "answer"]

FORMATS: Mapping[str, Format] = {
    one.name: one for one in (ChatCompletions(), Responses(), Anthropic())
}
"""The formats, by their names."""


def arrange(
    messages: Sequence[MessageView],
    *,
    pending: Pending = "leave_out",
    format: FormatName | None = None,  # noqa: A002 - the word that callers look for
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """
    Return what a model is given of the messages.

    :param messages: of a history, oldest first, to its end; with a limit, and before its newest
        messages those with the calls that they answer.
    :param pending: `leave_out` calls without a result, or `answer` them with a short text.
    :param format: None takes that of the newest item of the model's that has one; else that of the
        newest item that has one; else Chat Completions.
    :param limit: give the newest so many messages, and with them what they need: an answer its
        call, a call its answer, an item of the Responses API the reasoning that led to it. An
        answer that stands for one that was taken back does not bring its call.
    :return: plain JSON values, which share nothing with the messages.
    :raises InvalidInput: `pending` or `format` has another value.
    """
    check_options(pending, format)
    begin = 0
    if limit is not None and len(messages) > limit:
        begin = messages[-limit].position if limit else messages[-1].position + 1
    entries = _entries(messages, pending, begin)
    # What was read beyond the limit may be more than what is needed, and decides nothing.
    given = [entry for entry in entries if entry.newest >= begin]
    style = FORMATS[_newest_format(given) if format is None else format]
    groups = [group for group in _groups(entries, style) if _newest(group) >= begin]
    _reply(groups, style)
    items: list[dict[str, Any]] = []
    for group in groups:
        for entry in group:
            items += style.items(entry)
        items += style.replies([call for entry in group for call in entry.calls])
    result: list[dict[str, Any]] = plain(style.finish(items))
    return result


def check_options(pending: object, format: object) -> None:  # noqa: A002 - as in `arrange`
    """
    Check what a caller may get wrong, before anything is read.

    :raises InvalidInput: one of them has a value that is not listed.
    """
    check_choice(pending, "pending", get_args(Pending.__value__))
    if format is not None:
        check_choice(format, "format", FORMATS)


type _Answers = dict[tuple[int, str], list[tuple[CallAnswer, Part]]]
"""By the position at which they stand and the id of their call."""


def _entries(messages: Sequence[MessageView], pending: Pending, begin: int) -> list[Entry]:
    parts = [read_parts(message.body) for message in messages]
    answers: _Answers = defaultdict(list)
    for message, (_, answered) in zip(messages, parts, strict=True):
        for answer, part in answered:
            answers[message.position, answer.call_id].append((answer, part))
    replacements = _replacements(answers, messages, begin)
    return [
        _entry(message, calls, answers, replacements, pending)
        for message, (calls, _) in zip(messages, parts, strict=True)
    ]


def _replacements(
    answers: _Answers, messages: Sequence[MessageView], begin: int
) -> dict[UUID, tuple[CallAnswer, Part]]:
    """
    Let answers that ended no call stand for those that ended one and were taken away.

    Each stands for the newest call before it, and only answers within the limit stand for any: so
    nothing depends on messages that a limit does not read.

    :return: by the ids of the calls.
    """
    calls = [(call, message.position) for message in messages for call in message.tool_calls]
    used = {(call.finished_position, call.call_id) for call, _ in calls}
    # An item that is call and answer in one has ended its call by an event of its own.
    used |= {(position, call.call_id) for call, position in calls}
    withdrawn: dict[str, list[tuple[int, UUID]]] = defaultdict(list)
    for call, requested in calls:
        name, end = call.call_id, call.finished_position
        if end is None or call.status == "abandoned":
            continue
        if (end, name) not in answers and (requested, name) not in answers:
            withdrawn[name].append((end, call.id))
    found = {}
    for position, name in sorted(answers):
        if position < begin or (position, name) in used:
            continue
        for answer, part in answers[position, name]:
            before = [place for place in withdrawn[name] if place[0] < position]
            if before:
                withdrawn[name].remove(before[-1])
                found[before[-1][1]] = answer, part
    return found


def _entry(
    message: MessageView,
    calls: Sequence[tuple[RequestedCall, Part]],
    answers: _Answers,
    replacements: Mapping[UUID, tuple[CallAnswer, Part]],
    pending: Pending,
) -> Entry:
    body = message.body
    entry = Entry(body, format_of(body), _role(body), message.position)
    views: dict[int, ToolCallView] = {}
    for one in message.tool_calls:
        views.setdefault(one.index, one)
    for index, (call, part) in enumerate(calls):
        # As of a moment between a message and its requests there are no calls yet.
        view = views.get(index)
        answer, position = _answer(view, answers, replacements, pending)
        entry.newest = max(entry.newest, position)
        entry.calls.append(
            Call(
                id=_own_id(part) or (call.id if view is None else view.call_id),
                spare_id=f"call_{message.id.hex}_{index}"
                if view is None
                else f"call_{view.id.hex}",
                name=call.name or "unnamed",
                arguments=call.arguments,
                part=part,
                legacy=part is body.get("function_call"),
                answer=answer,
            )
        )
    return entry


def _answer(
    view: ToolCallView | None,
    answers: _Answers,
    replacements: Mapping[UUID, tuple[CallAnswer, Part]],
    pending: Pending,
) -> tuple[Answer | None, int]:
    """Return the answer of a call, and the position at which it came; 0 if there is none."""
    if view is not None and view.finished_position is not None:
        # One item may answer several calls of one name: they end in their order.
        found = answers.get((view.finished_position, view.call_id))
        if found:
            return _given(*found.pop(0), view), view.finished_position
        if view.id in replacements:
            # A limit finds a call by the answer that ended it, and by no other.
            return _given(*replacements[view.id], view), 0
    if pending == "leave_out":
        return None, 0
    return Answer(f"error: {_reason(view)}", failed=True, part={}), 0


def _given(answer: CallAnswer, part: Part, view: ToolCallView) -> Answer:
    content = _content(answer.output, view)
    failed = answer.failed or view.status == "failed" or _is_mcp_error(content)
    return Answer(content, failed, part)


def _content(given: Any, view: ToolCallView) -> Any:
    """Return what was answered: of an MCP result that was stored as text the result itself."""
    result = view.error if view.status == "failed" else view.output
    match result:
        case {"content": list()} if isinstance(given, str) and given == dumps(result):
            return result
        case _:
            return given


def _is_mcp_error(content: Any) -> bool:
    return isinstance(content, Mapping) and content.get("isError") is True


def _reason(view: ToolCallView | None) -> str:
    if view is None or view.status == "pending":
        return "this call has no result yet"
    if view.status == "abandoned":
        why = f": {view.error}" if isinstance(view.error, str) and view.error else ""
        return f"this call was abandoned{why}"
    return "the result of this call was withdrawn"


def _own_id(part: Part) -> str:
    """Return the id that stands in the item; the store shortens ids that are very long."""
    found = part.get("call_id") or part.get("id")
    return plain_text(found) if isinstance(found, str) else ""


_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def _role(body: Mapping[str, Any]) -> Role | None:
    """Return whom an item is from, as far as an API can be told."""
    role, kind = body.get("role"), body.get("type")
    match role:
        case str() if role in _ROLES:
            return _ROLES[role]
        case str() if has_visible(role):
            return "user"  # a name of the caller's: not the model, so somebody who talks to it
        case _ if format_of(body) == "responses" and isinstance(kind, str):
            if kind.endswith("_output"):
                # What the provider's own search found stands for itself.
                return "assistant" if kind == "tool_search_output" else "tool"
            return "user" if kind == "mcp_approval_response" else "assistant"
        case _ if body.get("tool_calls") or body.get("function_call"):
            return "assistant"
        case _:
            return None


def _newest_format(entries: Sequence[Entry]) -> FormatName:
    known = [one for one in reversed(entries) if one.format is not None]
    for of_model in (True, False):
        for entry in known:
            # The store's own answers have the shape of chat messages, whatever was asked.
            if entry.format is not None and entry.role != "tool" and entry.is_model >= of_model:
                return entry.format
    return "chat_completions"


def _groups(entries: Sequence[Entry], style: Format) -> Iterator[list[Entry]]:
    """Yield what is answered together: single items, or runs of items of the model."""
    group: list[Entry] = []
    for entry in entries:
        if group and not (style.in_runs and entry.is_model and group[-1].is_model):
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def _newest(group: Sequence[Entry]) -> int:
    return max(entry.newest for entry in group)


def _reply(groups: Sequence[Sequence[Entry]], style: Format) -> None:
    """Give each call that is answered its answer, and an id that no other call has."""
    taken: set[str] = set()
    for call in (call for group in groups for entry in group for call in entry.calls):
        if call.answer is None or not is_for_client(call.part):
            continue
        if call.id in taken or not style.accepts_id(call.id):
            call.id = call.spare_id
        call.reply = style.reply(call, call.answer)
        if call.reply is not None:
            taken.add(call.id)
