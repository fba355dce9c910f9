"""
Search what a user's messages and tasks say.

Every word of the search must occur, at the beginning of a word, in upper or lower case: `buy mil`
finds "Milk: buy some". A word of a script that is written without spaces (Chinese, Japanese,
Thai) may stand anywhere. Nothing depends on a language: no word is left out or cut to its stem.

PostgreSQL compares the texts of one user, read along an index that begins with the user, and no
index knows the words: it would cost each message more than all other indexes together, and
row-level security would not let it be used (docs/decisions/0029).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.events.fields import check_label
from eventstore.log.envelope import NOW
from eventstore.log.paging import Cursors, Page, fetched
from projections.models.message import MessageView
from projections.queries.history import (
    MESSAGE_COLUMNS,
    message_view,
    require_conversation,
    select_existence,
)
from projections.queries.tool_calls import TOOL_CALL_COLUMNS, by_message, tool_call_view

__all__ = ["MAX_SEARCH", "search_messages", "search_patterns"]

MAX_SEARCH = 500
"""Characters of a search; each word is compared with each text."""

# Thai and Lao, Tibetan, Myanmar, Khmer, kana, Han with its extensions. Korean has spaces.
_WITHOUT_SPACES = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_UNSPACED = re.compile(f"[{_WITHOUT_SPACES}]")
# What stands before a word. `\m` would not do: in a database with the collation "C" it knows no
# word that begins with a letter like "ü".
_BEGINNING = f"(?:^|[^[:alnum:]]|[{_WITHOUT_SPACES}])"

_EDITED, _CALL_COUNT = -4, -2

# $2 is the position of the last message on the page before, $3 the patterns. A deleted conversation
# keeps its messages for earlier moments. Indexes: the user's part of message_pkey or
# message_conversation_position_key, and conversation_pkey.
# Under row-level security PostgreSQL has no statistics for `~` and expects hardly a row, so that it
# would look through all conversations for each message that matches. Of a `case` it expects half.
_SEARCH = f"""
select {MESSAGE_COLUMNS}, tool_call_count, conversation_id
from eventstore.message as m
where m.user_id = $1
  and m.position < coalesce($2, 9223372036854775807)
  and m.retracted_at is null
  and case when m.content ~ all($3::text[]) then true else false end
  and exists (
    select from eventstore.conversation as c
    where c.user_id = m.user_id and c.id = m.conversation_id and c.status <> 'deleted')
  {{condition}}
order by m.position desc
limit $4
"""
# Index: tool_call_message.
_CALLS = f"""
select {TOOL_CALL_COLUMNS}
from eventstore.tool_call as t
where t.user_id = $1 and t.message_id = any($2)
order by t.index, t.position
"""


def search_patterns(text: object, path: str) -> list[str]:
    """
    Return the regular expressions of PostgreSQL that a text must all match.

    :param text: what the user looks for.
    :param path: the parameter that it is, for errors.
    :raises InvalidInput: it is no text, shows nothing, or is too long.
    """
    words = check_label(text, path, MAX_SEARCH).split()
    return [_pattern(word) for word in dict.fromkeys(words)]


def _pattern(word: str) -> str:
    # An accent is a character of its own in texts from some systems.
    forms = dict.fromkeys((word, *(unicodedata.normalize(form, word) for form in ("NFC", "NFD"))))
    pattern = "|".join("".join(map(_either_case, form)) for form in forms)
    anywhere = _UNSPACED.match(word) or not word[0].isalnum()
    return f"(?:{pattern})" if anywhere else f"{_BEGINNING}(?:{pattern})"


def _either_case(character: str) -> str:
    # Written out, because what PostgreSQL knows of case depends on the database's collation.
    upper = character.upper()
    cases = {character, character.lower(), upper, upper.lower()}
    cases = {one for one in cases if len(one) == 1}
    if "\u03c3" in cases:
        cases.add("\u03c2")  # Greek sigma has a form of its own at the end of a word
    if len(cases) > 1:
        return f"[{''.join(sorted(cases))}]"
    return character if character.isalnum() or not character.isascii() else f"\\{character}"


def search_messages(
    user_id: str,
    text: object,
    *,
    conversation: UUID | None,
    after: str | None,
    limit: int,
) -> Plan[Page[MessageView]]:
    """
    Return a page of the messages that say something, newest first.

    One round trip, and one more if messages of the page ask for tool calls. It compares the user's
    messages, or those of the conversation: some 3 microseconds each.

    :param text: what to look for, as `search_patterns` takes it.
    :param conversation: only its messages; None for all conversations that are not deleted.
    :param after: the cursor of the page; None for the first one.
    :raises InvalidInput: a parameter does not fit, or the cursor is none of this search.
    :raises NotFound: the conversation is absent, deleted or another user's.
    """
    patterns = search_patterns(text, "text")
    most = fetched(limit)
    cursors = Cursors(user_id, ("search", patterns, conversation), (int,))
    (before,) = cursors.read(after) or (None,)
    parameters: list[object] = [user_id, before, patterns, most]
    statements = []
    condition = ""
    if conversation is not None:
        statements.append(select_existence(user_id, conversation, NOW))
        parameters.append(conversation)
        condition = "and m.conversation_id = $5"
    statements.append(Statement(_SEARCH.format(condition=condition), parameters))
    *there, rows = yield Batch(user_scope(user_id), tuple(statements))
    if conversation is not None:
        require_conversation(conversation, there[0])
    asking = [row[0] for row in rows[:limit] if row[_CALL_COUNT] or row[_EDITED] is not None]
    call_rows = []
    if asking:
        (call_rows,) = yield Batch(user_scope(user_id), (Statement(_CALLS, (user_id, asking)),))
    calls = by_message(map(tool_call_view, call_rows), None)

    def view(row: tuple[Any, ...]) -> MessageView:
        return message_view(row[-1], row[:-2], calls)

    return cursors.page(rows, limit, after, lambda row: (row[1],), view)
