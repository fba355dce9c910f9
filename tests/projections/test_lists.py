"""Lists of tasks and conversations: filters, orders, pages, and the state as of earlier events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any, cast
from uuid import UUID

import pytest

from eventstore import InvalidInput, NotFound, Page, User
from projections.models.conversation import ConversationView
from projections.models.task import TaskView
from projections.queries.task_filters import TaskOrder
from tests.support.paging import everything

# By code point, capitals come before small letters, accents after both, U+FFFF before U+10000.
TITLES = ["zoo", "Zoo", "a", "b", "a b", "ä", "\uffff", "\U00010000", "é", "e\u0301", "10", "9"]
ORDERS: tuple[TaskOrder, ...] = ("created", "updated", "title", "manual", "due")


def titles(tasks: list[TaskView]) -> list[str]:
    return [task.title for task in tasks]


def change_tasks(alice: User) -> Iterator[None]:
    """Change alice's tasks step by step, and yield after each step."""
    tasks = [alice.tasks.create(title) for title in ("walk", "cook", "read", "swim")]
    yield
    alice.tasks.complete(tasks[1].id)
    yield
    alice.tasks.update(tasks[0].id, title="zigzag", description="uphill")
    yield
    with alice.transaction() as tx:
        tx.tasks.delete(tasks[2].id)
        tx.tasks.complete(tx.tasks.create("nap").id)
        tx.tasks.complete(tasks[3].id)
    yield
    alice.tasks.reopen(tasks[1].id)
    alice.tasks.update(tasks[0].id, description=None)
    yield


def ways(alice: User, **options: Any) -> list[Callable[..., Page[TaskView]]]:
    """Return the questions for alice's tasks with every filter in every order."""
    return [
        partial(
            alice.tasks.list,
            completed=completed,
            order=order,
            newest_first=newest_first,
            **options,
        )
        for completed, order, newest_first in product((None, True, False), ORDERS, (False, True))
    ]


def list_every_way(alice: User, **options: Any) -> list[Page[TaskView]]:
    """Return the lists of alice's tasks with every filter in every order."""
    return [ask(**options) for ask in ways(alice)]


def test_tasks_are_filtered_by_completion(alice: User) -> None:
    done, open_ = alice.tasks.create("done"), alice.tasks.create("open")
    done = alice.tasks.complete(done.id)

    assert alice.tasks.list(completed=True) == [done]
    assert alice.tasks.list(completed=False) == [open_]
    assert alice.tasks.list() == [done, open_]


def test_tasks_are_ordered_by_creation_or_by_their_last_change(alice: User) -> None:
    first, second, third = (alice.tasks.create(title) for title in ("1", "2", "3"))
    alice.tasks.complete(first.id)
    alice.tasks.update(second.id, title="2!")

    assert titles(alice.tasks.list()) == ["1", "2!", "3"]
    assert titles(alice.tasks.list(order="created", newest_first=True)) == ["3", "2!", "1"]
    assert titles(alice.tasks.list(order="updated")) == ["3", "1", "2!"]
    assert titles(alice.tasks.list(order="updated", newest_first=True)) == ["2!", "1", "3"]
    assert alice.tasks.list(order="updated")[0] == third


def test_titles_are_ordered_by_code_point_now_and_as_of_an_event(alice: User) -> None:
    with alice.transaction() as tx:
        for title in TITLES * 2:
            tx.tasks.create(title)
    head = tx.recorded[-1].position
    alice.tasks.create("0 not yet")

    then = alice.tasks.list(order="title", as_of=head)

    assert titles(then) == sorted(TITLES * 2)
    assert titles(alice.tasks.list(order="title")) == ["0 not yet", *sorted(TITLES * 2)]
    assert alice.tasks.list(order="title")[1:] == then
    backward = alice.tasks.list(order="title", newest_first=True)
    assert backward[:-1] == alice.tasks.list(order="title", newest_first=True, as_of=head)
    assert backward[:-1] == then[::-1]


def test_tasks_changed_at_the_same_time_are_ordered_by_creation(alice: User) -> None:
    with alice.transaction() as tx:
        made = [tx.tasks.create(str(n)) for n in range(5)]
    with alice.transaction() as tx:
        for task in reversed(made):
            tx.tasks.complete(task.id)

    for as_of in (None, tx.recorded[-1].position):
        assert titles(alice.tasks.list(order="updated", as_of=as_of)) == ["0", "1", "2", "3", "4"]


def test_the_pages_of_tasks_make_up_the_complete_list(alice: User) -> None:
    for _ in change_tasks(alice):
        pass
    head = alice.events(backward=True, limit=1)[0].position

    for options in ({}, {"as_of": head}):
        complete = list_every_way(alice, **options)
        for expected, ask in zip(complete, ways(alice, **options), strict=True):
            assert everything(ask, limit=2) == expected
        assert list_every_way(alice, limit=0, **options) == [[] for _ in complete]
    assert len(alice.tasks.list()) == 4


def test_a_list_as_of_an_event_equals_the_list_at_that_time(alice: User) -> None:
    lists: dict[int, list[Page[TaskView]]] = {}
    for _ in change_tasks(alice):
        alice.conversations.start(title="something else happens too")
        (newest,) = alice.events(backward=True, limit=1)
        lists[newest.position] = list_every_way(alice)

    for event in alice.events():
        if event.position in lists:
            then = lists.pop(event.position)
            assert list_every_way(alice, as_of=event.position) == then
            assert list_every_way(alice, as_of=event.recorded_at) == then
    assert not lists
    assert alice.tasks.list(as_of=0) == []


def test_a_task_as_of_an_event_equals_the_task_at_that_time(alice: User, bob: User) -> None:
    task = alice.tasks.create("walk", description="uphill")
    done = alice.tasks.complete(task.id)
    alice.tasks.delete(task.id)

    assert alice.tasks.get(task.id, as_of=1) == task
    assert alice.tasks.get(task.id, as_of=done.updated_at) == done
    assert done.completed_at == done.updated_at > task.updated_at
    for user, as_of in ((alice, None), (alice, 0), (alice, 3), (bob, 1), (bob, None)):
        with pytest.raises(NotFound, match=f"task {task.id} not found"):
            user.tasks.get(task.id, as_of=as_of)


def test_an_invalid_argument_of_a_list_is_refused_with_its_name(alice: User) -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - on purpose
    wrong: list[dict[str, Any]] = [{"as_of": naive}, {"as_of": True}, {"as_of": -1}, {"limit": -1}]

    for options in [*wrong, {"after": -1}, {"after": "x"}, {"order": "random"}]:
        with pytest.raises(InvalidInput) as refused:
            alice.tasks.list(**options)
        assert [refused.value.path] == list(options)
    for options in wrong:
        with pytest.raises(InvalidInput) as refused:
            alice.conversations.list(**options)
        assert [refused.value.path] == list(options)


def ids(conversations: list[ConversationView]) -> list[UUID]:
    return [one.id for one in conversations]


def test_conversations_with_the_newest_activity_come_first(alice: User) -> None:
    a, b, c = (alice.conversations.start(title=title).id for title in "abc")
    moment = alice.events(backward=True, limit=1)[0].position

    alice.messages.post(a, sender="user", content="hi")
    call = alice.tool_calls.request(b, name="look", arguments="{}")
    after_call = ids(alice.conversations.list())
    alice.messages.post(a, sender="user", content="and now?")
    after_message = ids(alice.conversations.list())
    alice.tool_calls.succeed(call, output=1)

    assert after_call == [b, a, c]
    assert after_message == [a, b, c]
    assert ids(alice.conversations.list()) == [b, a, c]
    assert ids(alice.conversations.list(as_of=moment)) == [c, b, a]


def test_the_pages_of_conversations_make_up_the_complete_list(alice: User) -> None:
    chats = [alice.conversations.start(title=str(n)) for n in range(7)]
    for chat in chats[::2]:
        alice.messages.post(chat.id, sender="user", content="hi")
    head = alice.events(backward=True, limit=1)[0].position

    for as_of in (None, head):
        complete = alice.conversations.list(as_of=as_of)
        assert everything(alice.conversations.list, limit=2, as_of=as_of) == complete
        assert ids(complete) == ids([*chats[6::-2], *chats[5::-2]])
        assert alice.conversations.list(limit=0, as_of=as_of) == []


def test_archived_conversations_are_listed_only_on_request_and_deleted_ones_never(
    alice: User,
) -> None:
    active, archived, deleted = (alice.conversations.start(title=t).id for t in "abc")
    moment = alice.conversations.archive(archived).last_position
    alice.conversations.archive(deleted)
    alice.conversations.delete(deleted)
    head = moment + 2

    for as_of in (None, head, datetime.now(UTC) + timedelta(hours=1)):
        assert ids(alice.conversations.list(as_of=as_of)) == [active]
        assert ids(alice.conversations.list(archived=True, as_of=as_of)) == [archived]
        assert ids(alice.conversations.list(archived=None, as_of=as_of)) == [archived, active]
        with pytest.raises(NotFound):
            alice.conversations.get(deleted, as_of=as_of)
    assert ids(alice.conversations.list(as_of=moment)) == [deleted, active]
    assert alice.conversations.get(deleted, as_of=moment).status == "active"


def test_a_conversation_as_of_an_event_equals_the_conversation_at_that_time(alice: User) -> None:
    chat = alice.conversations.start(key="k", title="first")
    slip = alice.messages.post("k", sender="user", content="a slip")
    posted = alice.conversations.get("k")
    alice.messages.retract("k", slip.id)
    retracted = alice.conversations.get("k")
    alice.conversations.rename("k", None)

    assert alice.conversations.get("k", as_of=chat.position) == chat
    assert alice.conversations.get(chat.id, as_of=posted.last_position) == posted
    assert alice.conversations.get(chat.id, as_of=retracted.updated_at) == retracted
    assert (posted.message_count, retracted.message_count) == (1, 0)
    assert (chat.title, alice.conversations.get("k").title) == ("first", None)


def test_lists_contain_nothing_of_other_users(alice: User, bob: User) -> None:
    alice.tasks.create("alice's")
    alice.conversations.start()

    for as_of in (None, 100, datetime.now(UTC)):
        assert bob.tasks.list(as_of=as_of) == []
        assert bob.conversations.list(as_of=as_of, archived=None) == []


def test_an_unknown_order_is_refused_with_the_known_orders(alice: User) -> None:
    with pytest.raises(InvalidInput, match="order: 'size'; give one of created, updated, title"):
        alice.tasks.list(order=cast("TaskOrder", "size"))
