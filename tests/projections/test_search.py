"""Search in messages and tasks: what is found, in whatever script, and what is found no more."""

from __future__ import annotations

import unicodedata
from typing import Any
from uuid import UUID

import pytest

from eventstore import EventStore, InvalidInput, NotFound, RequestedCall, User
from tests.support.paging import everything


def say(user: User, chat: UUID | str, text: str) -> UUID:
    return user.messages.post(chat, sender="user", content=text).id


# ruff: noqa: RUF001 - texts of other scripts, on purpose
FOUND = {
    "a word": ("milk", "Buy milk, please"),
    "either case": ("MILK", "Milk!"),
    "the beginning of a word": ("gro", "the Groceries"),
    "every word, in any order": ("bread milk", "milk and bread"),
    "umlauts in either case": ("ÜBER", "ganz über"),
    "an accent that is a character of its own": ("café", unicodedata.normalize("NFD", "Café")),
    "an accent that is not": (unicodedata.normalize("NFD", "café"), "CAFÉ"),
    "Greek with its two sigmas": ("ΟΔΟΣ", "οδοσ"),
    "Greek that ends": ("ΟΔΟΣ", "η οδός οδος"),
    "Cyrillic": ("молоко", "Купить Молоко"),
    "behind punctuation": ("milk", "oat-milk"),
    "behind an underscore": ("task", "add_task"),
    "a part of Chinese": ("牛奶", "请买牛奶和面包"),
    "a part of Japanese": ("を買う", "牛乳を買う"),
    "with an ideographic space": ("牛乳\u3000買う", "牛乳を買う"),
    "a part of Thai": ("นม", "ซื้อนมด้วย"),
    "Latin in Japanese": ("milk", "牛乳milkを買う"),
    "Korean": ("우유", "우유를 사다"),
    "Persian with its joiner": ("می\u200cخواهم", "شیر می\u200cخواهم"),
    "signs of expressions": ("a.*(b|c)[d]{2}\\d+?^$", "as in a.*(b|c)[d]{2}\\d+?^$ here"),
    "percent and underscore": ("100%_", "at 100%_ now"),
    "a sign alone": ("#shop", "see #shopping"),
    "a line further": ("second", "first\nsecond"),
    "an emoji": ("🥛", "one 🥛"),
}
NOT_FOUND = {
    "the middle of a word": ("ilk", "milk"),
    "one of two words": ("milk eggs", "milk and bread"),
    "a letter with an umlaut, inside": ("ber", "über"),
    "any character": ("m.lk", "milk"),
    "a group of letters": ("[a-z]", "milk"),
    "all": (".*", "milk"),
    "characters in another order": ("奶牛", "牛奶"),
    "nothing like it": ("%", "milk"),
}


@pytest.mark.parametrize(("text", "content"), FOUND.values(), ids=FOUND)
def test_a_text_is_found_in_messages_and_tasks(alice: User, text: str, content: str) -> None:
    chat = alice.conversations.start().id
    message = say(alice, chat, content)
    in_title = alice.tasks.create(content.replace("\n", " ")).id
    in_description = alice.tasks.create("other", description=content).id
    alice.tasks.create("nothing of it", description="here either")
    say(alice, chat, "nothing of it")

    for where in (None, chat):
        assert [one.id for one in alice.messages.search(text, conversation=where)] == [message]
    assert [one.id for one in alice.tasks.list(search=text)] == [in_title, in_description]


@pytest.mark.parametrize(("text", "content"), NOT_FOUND.values(), ids=NOT_FOUND)
def test_another_text_is_not_found(alice: User, chat: UUID, text: str, content: str) -> None:
    say(alice, chat, content)
    alice.tasks.create(content, description=content)

    assert alice.messages.search(text) == []
    assert alice.tasks.list(search=text) == []


def test_found_messages_are_those_of_the_history_newest_first_in_pages(alice: User) -> None:
    chats = [alice.conversations.start(key=key).id for key in ("one", "two")]
    call = RequestedCall(id="call_1", name="f", arguments='{"milk": 1}')
    asking = alice.messages.post(
        "one", sender="assistant", content="milk?", tool_calls=[call]
    ).tool_calls[0]
    for number in range(5):
        say(alice, chats[number % 2], f"milk {number}")
        say(alice, chats[number % 2], "bread")
    alice.tool_calls.succeed(asking, output="there is milk")
    expected = [one for chat in chats for one in alice.history(chat) if "milk" in str(one.content)]
    expected.sort(key=lambda one: one.position, reverse=True)

    found = alice.messages.search("milk", limit=50)

    assert list(found) == expected
    assert found[-1].tool_calls[0].status == "succeeded"
    assert everything(lambda **page: alice.messages.search("milk", limit=2, **page)) == expected
    in_two = alice.messages.search("milk", conversation="two")
    assert in_two == [one for one in expected if one.conversation_id == chats[1]]


def test_what_was_taken_away_is_not_found_and_an_edit_by_what_it_says_now(
    store: EventStore, alice: User
) -> None:
    chats = {
        name: alice.conversations.start(key=name).id
        for name in ("kept", "deleted", "erased", "restored", "anew", "archived")
    }
    said = {name: say(alice, chat, "milk") for name, chat in chats.items()}
    retracted, edited, rewound = (say(alice, "kept", "milk") for _ in range(3))
    alice.messages.retract("kept", retracted)
    alice.messages.edit("kept", edited, content="bread")
    alice.conversations.rewind("kept", to=edited)
    for name in ("deleted", "restored", "anew"):
        alice.conversations.delete(chats[name])
    alice.conversations.restore("restored")
    alice.conversations.start(key="anew")
    alice.conversations.archive("archived")
    store.erase("alice", ordered_by="test", conversation=chats["erased"])
    deleted = alice.tasks.create("milk").id
    alice.tasks.delete(deleted)

    found = {one.id for one in alice.messages.search("milk")}

    assert found == {said["kept"], said["restored"], said["archived"]}
    assert rewound not in found
    assert [one.id for one in alice.messages.search("bread")] == [edited]
    assert alice.tasks.list(search="milk") == []
    assert alice.messages.search("milk", conversation="anew") == []
    for gone in ("deleted", "erased", "never was"):
        with pytest.raises(NotFound, match=r"conversation .* not found"):
            alice.messages.search("milk", conversation=gone)


def test_another_users_texts_are_not_found_nor_that_they_exist(alice: User, bob: User) -> None:
    chat = alice.conversations.start(key="chat").id
    say(alice, chat, "swordfish")
    alice.tasks.create("swordfish")
    page = alice.messages.search("swordfish", limit=0)

    refusals = []
    for conversation in (chat, UUID(int=7)):
        with pytest.raises(NotFound) as refused:
            bob.messages.search("swordfish", conversation=conversation)
        refusals.append(str(refused.value).replace(str(conversation), ""))

    assert (bob.messages.search("swordfish"), bob.tasks.list(search="swordfish")) == ([], [])
    assert bob.messages.search("swordfish", limit=0).more is False
    assert refusals[0] == refusals[1]
    with pytest.raises(InvalidInput, match="after: is no cursor of this list"):
        bob.messages.search("swordfish", after=page.next)


def test_a_search_as_of_an_earlier_moment_finds_what_tasks_said_then(alice: User) -> None:
    changed, removed, same = (alice.tasks.create(title) for title in ("Milk", "Buy", "MILK too"))
    described = alice.tasks.update(removed.id, description="ohne Milch, über milk")
    moment = alice.events(backward=True, limit=1)[0].position
    alice.tasks.update(changed.id, title="bread")
    alice.tasks.update(removed.id, description=None)

    then = alice.tasks.list(search="milk", as_of=moment)

    assert then == [changed, described, same]
    assert alice.tasks.list(search="über milk", as_of=moment) == [described]
    assert alice.tasks.list(search="ber", as_of=moment) == []
    assert alice.tasks.list(search="milk") == [same]
    assert alice.tasks.list(search="milk", completed=True, as_of=moment) == []
    first = alice.tasks.list(search="milk", as_of=moment, limit=1)
    assert alice.tasks.list(search="milk", as_of=moment, after=first.next) == [described, same]


@pytest.mark.parametrize("text", ["", " ", "\u200b", "x" * 501, 7, "a\0b", "\ud83e", None])
def test_a_search_for_nothing_is_refused_and_named(alice: User, text: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        alice.messages.search(text)
    assert refused.value.path == "text"
    if text is not None:
        with pytest.raises(InvalidInput) as refused:
            alice.tasks.list(search=text)
        assert refused.value.path == "search"
