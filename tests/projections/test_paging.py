"""Pages of lists while rows change between them, and cursors that belong to something else."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import EventStore, InvalidInput, Page, User
from eventstore.log.paging import Cursors
from projections.models.task import TaskView
from projections.queries.task_filters import TaskOrder, TaskOrdering
from tests.support.drivers import open_store
from tests.support.paging import everything
from tests.support.properties import examples

# The pool's thread may use `random` while Hypothesis draws an example, and Hypothesis then warns.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


def make_tasks(user: User, count: int) -> list[UUID]:
    with user.transaction() as tx:
        return [tx.tasks.create(f"task {number}").id for number in range(count)]


def test_every_open_task_is_seen_while_the_tasks_of_each_page_are_completed(alice: User) -> None:
    made = make_tasks(alice, 130)

    seen: list[UUID] = []
    page = alice.tasks.list(completed=False, limit=50)
    while True:
        seen += [task.id for task in page]
        for task in page:
            alice.tasks.complete(task.id)
        if not page.more:
            break
        page = alice.tasks.list(completed=False, limit=50, after=page.next)

    assert seen == made


def test_a_list_that_is_cut_says_so_and_one_that_ends_says_that(alice: User) -> None:
    made = make_tasks(alice, 130)

    cut = alice.tasks.list()
    rest = alice.tasks.list(after=cut.next)

    assert (len(cut), cut.more, len(rest), rest.more, rest.next) == (100, True, 30, False, None)
    assert alice.tasks.list(limit=130).more is False
    assert [task.id for task in everything(alice.tasks.list, limit=130)] == made


def test_a_page_of_no_rows_tells_whether_there_are_any(alice: User) -> None:
    assert alice.tasks.list(limit=0).more is False
    made = make_tasks(alice, 2)

    nothing = alice.tasks.list(limit=0)
    first = alice.tasks.list(limit=1, after=nothing.next)
    still_there = alice.tasks.list(limit=0, after=first.next)

    assert (list(nothing), nothing.more, still_there.more) == ([], True, True)
    assert [first[0].id, alice.tasks.list(after=still_there.next)[0].id] == made


@pytest.mark.parametrize("as_of", [None, 0])
def test_a_conversation_that_gets_a_message_between_two_pages_is_not_missed(
    alice: User, as_of: int | None
) -> None:
    chats = [alice.conversations.start(title=str(number)).id for number in range(6)]
    moment = as_of if as_of is None else alice.events(backward=True, limit=1)[0].position

    first = alice.conversations.list(limit=2, as_of=moment)
    alice.messages.post(chats[1], sender="user", content="not shown yet")
    alice.messages.post(chats[5], sender="user", content="shown already")
    new = alice.conversations.start(title="new").id
    second = alice.conversations.list(limit=2, after=first.next, as_of=moment)
    alice.messages.post(chats[0], sender="user", content="hi")
    alice.messages.post(chats[3], sender="user", content="hi")
    third = alice.conversations.list(limit=2, after=second.next, as_of=moment)

    assert [one.id for one in (*first, *second, *third)] == chats[::-1]
    assert third.more is False
    assert [one.id for one in alice.conversations.list(limit=2)] == [chats[3], chats[0]]
    assert alice.conversations.list(limit=3)[2].id == new


@pytest.fixture(scope="module")
def paged_store(server: Any) -> Any:
    """A store for examples of properties, each of which has a user of its own."""
    url = server.create_database()
    with open_store("sync", url) as store:
        yield store
    server.drop_database(url)


user_numbers = iter(range(10**9))
numbers = st.integers(0, 11)
ORDERS: dict[TaskOrder, Callable[[TaskView], object]] = {
    "created": lambda task: task.position,
    "updated": lambda task: task.updated_at,
    "title": lambda task: task.title,
    "manual": lambda task: task.rank,
    "due": lambda task: (task.due_on, task.due_at),
}
DUES: list[dict[str, Any]] = [
    {"due_on": None, "due_at": None},
    {"due_on": date(2026, 3, 29)},
    {"due_on": date(9999, 12, 31)},
    {"due_at": datetime(2026, 3, 29, 22, tzinfo=UTC)},
]


def change_task(user: User, task: UUID, change: int, other: UUID) -> None:
    if change in {0, 1, 2, 3}:
        user.tasks.update(task, **DUES[change])
        return
    if change == 8 and task != other:
        user.tasks.move(task, before=other)
        return
    ways: dict[int, Callable[[], object]] = {
        4: lambda: user.tasks.complete(task),
        5: lambda: user.tasks.reopen(task),
        6: lambda: user.tasks.update(task, title="moved to the front"[:change] + str(other)[:2]),
        7: lambda: user.tasks.update(task, description="no order knows it"),
        9: lambda: user.tasks.create("a"),
        10: lambda: user.tasks.create("z", due_on=date(2026, 3, 29)),
    }
    ways.get(change, lambda: None)()


@pytest.mark.parametrize("order", ORDERS)
@given(
    newest_first=st.booleans(),
    completed=st.sampled_from([None, False]),
    limit=st.integers(1, 4),
    changes=st.lists(st.lists(st.tuples(numbers, numbers, numbers), max_size=3), max_size=6),
)
@examples(12)
def test_each_task_that_stays_in_its_place_comes_once_whatever_changes_between_two_pages(
    paged_store: EventStore,
    order: TaskOrder,
    newest_first: bool,
    completed: bool | None,
    limit: int,
    changes: list[list[tuple[int, int, int]]],
) -> None:
    user = paged_store.user(f"user {next(user_numbers)}")
    made = make_tasks(user, 12)
    for number, task in enumerate(made[:8]):
        user.tasks.update(task, **DUES[number % 4])
    wanted: dict[str, Any] = {"completed": completed, "zone": "America/New_York"}
    wanted |= {"order": order, "newest_first": newest_first}
    steady = {task.id: ORDERS[order](task) for task in user.tasks.list(**wanted)}

    page = user.tasks.list(limit=limit, **wanted)
    seen = [task.id for task in page]
    while page.more:
        assert len(seen) < 100  # a cursor that stands still would go on for ever
        for number, change, other in changes.pop() if changes else ():
            change_task(user, made[number], change, made[other])
            now = {task.id: ORDERS[order](task) for task in user.tasks.list(**wanted)}
            steady = {one: key for one, key in steady.items() if (one, key) in now.items()}
        page = user.tasks.list(limit=limit, after=page.next, **wanted)
        seen += [task.id for task in page]

    assert [one for one in seen if one in steady] == list(steady)


@given(
    limit=st.integers(1, 3),
    changes=st.lists(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5))), max_size=6),
)
@examples(20)
def test_each_conversation_comes_once_whatever_is_said_between_two_pages(
    paged_store: EventStore, limit: int, changes: list[list[tuple[int, int]]]
) -> None:
    user = paged_store.user(f"user {next(user_numbers)}")
    made = [user.conversations.start(title=str(number)).id for number in range(8)]
    for chat in made[::3]:
        user.messages.post(chat, sender="user", content="hi")
    order = [one.id for one in user.conversations.list()]
    stayed = set(order)

    page = user.conversations.list(limit=limit)
    seen = [one.id for one in page]
    while page.more:
        assert len(seen) < 100
        for number, change in changes.pop() if changes else ():
            chat = made[number]
            match change:
                case 0 | 1:
                    user.messages.post(chat, sender="user", content="hi")
                case 2:
                    user.tool_calls.request(chat, name="f", arguments="{}")
                case 3:
                    user.conversations.archive(chat)
                    stayed.discard(chat)
                case 4:
                    user.conversations.reopen(chat)
                case _:
                    user.conversations.start()
        page = user.conversations.list(limit=limit, after=page.next)
        seen += [one.id for one in page]

    assert [one for one in seen if one in stayed] == [one for one in order if one in stayed]
    assert len(seen) == len(set(seen))


@given(
    as_of_changes=st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=5),
    order=st.sampled_from(list(ORDERS)),
    newest_first=st.booleans(),
)
@examples(12)
def test_the_pages_of_a_list_of_an_earlier_moment_are_that_list_whatever_moves(
    paged_store: EventStore,
    as_of_changes: list[tuple[int, int, int]],
    order: TaskOrder,
    newest_first: bool,
) -> None:
    user = paged_store.user(f"user {next(user_numbers)}")
    made = make_tasks(user, 12)
    for number, task in enumerate(made[:8]):
        user.tasks.update(task, **DUES[number % 4])
    wanted: dict[str, Any] = {"order": order, "newest_first": newest_first, "zone": "Asia/Tokyo"}
    then = user.tasks.list(**wanted)
    (newest,) = user.events(backward=True, limit=1)

    page = user.tasks.list(limit=3, as_of=newest.position, **wanted)
    seen = list(page)
    while page.more:
        assert len(seen) < 100
        for number, change, other in as_of_changes:
            change_task(user, made[number], change, made[other])
        page = user.tasks.list(limit=3, as_of=newest.position, after=page.next, **wanted)
        seen += page

    assert seen == then


def test_what_is_said_and_asked_for_between_two_pages_shifts_nothing(alice: User) -> None:
    chat = alice.conversations.start().id
    for number in range(5):
        alice.messages.post(chat, sender="user", content=str(number))
        alice.tool_calls.request(chat, name="f", arguments="{}", in_history=False)
    lists: dict[str, Callable[..., Page[Any]]] = {
        "messages": lambda **page: alice.history(chat, **page),
        "calls": alice.tool_calls.list,
        "events": lambda **page: alice.events(backward=True, **page),
    }
    pages = {name: ask(limit=2) for name, ask in lists.items()}
    (second,) = alice.history(chat, limit=1, after=pages["messages"].next)
    alice.messages.retract(chat, second.id)
    alice.messages.post(chat, sender="user", content="new")
    alice.tool_calls.succeed(alice.tool_calls.list(limit=3)[2], output=1)

    rest = {name: ask(after=pages[name].next) for name, ask in lists.items()}

    assert [one.content for one in (*rest["messages"], *pages["messages"])] == ["0", "1", "3", "4"]
    assert [one.position for one in pages["calls"]] == [3, 5]
    assert [one.position for one in rest["calls"]] == [9, 11]
    assert [one.position for one in (*pages["events"], *rest["events"])] == list(range(11, 0, -1))


def cursor(page: Page[Any]) -> str:
    assert page.next is not None
    return page.next


def test_a_cursor_of_something_else_is_refused_with_what_to_give(alice: User, bob: User) -> None:
    chats = [alice.conversations.start(key=key).id for key in ("one", "two")]
    bob.conversations.start(key="one")
    for user in (alice, bob):
        make_tasks(user, 3)
        for number in range(3):
            user.messages.post("one", sender="user", content=str(number))
    alice.messages.post("two", sender="user", content="hi")
    tasks, chat = cursor(alice.tasks.list(limit=1)), cursor(alice.conversations.list(limit=1))
    said, events = cursor(alice.history("one", limit=1)), cursor(alice.events(limit=1))

    wrong: dict[str, Callable[[], object]] = {
        "another user": lambda: bob.tasks.list(after=tasks),
        "another order": lambda: alice.tasks.list(after=tasks, order="title"),
        "the other direction": lambda: alice.tasks.list(after=tasks, newest_first=True),
        "another filter": lambda: alice.tasks.list(after=tasks, completed=False),
        "another moment": lambda: alice.tasks.list(after=tasks, as_of=5),
        "another list": lambda: alice.conversations.list(after=tasks),
        "other statuses": lambda: alice.conversations.list(after=chat, archived=None),
        "another conversation": lambda: alice.history(chats[1], after=said),
        "another user's conversation": lambda: bob.history("one", after=said),
        "other types": lambda: alice.events(after=events, types=["TaskCreated"]),
        "other calls": lambda: alice.tool_calls.list(after=events),
        "turns": lambda: alice.turns.list("one", after=said),
        "cut": lambda: alice.tasks.list(after=tasks[:-1]),
        "lengthened": lambda: alice.tasks.list(after=tasks + "A"),
        "no cursor": lambda: alice.tasks.list(after="next"),
        "empty": lambda: alice.tasks.list(after=""),
        "not ASCII": lambda: alice.tasks.list(after="ä" * 40),
        "endless": lambda: alice.tasks.list(after="A" * 1_000_000),
        "a number": lambda: alice.tasks.list(after=3),  # type: ignore[arg-type]
    }
    remedy = "^after: .*give `next` of the page before"
    for name, ask in wrong.items():
        with pytest.raises(InvalidInput, match=remedy) as error:
            ask()
        assert error.value.path == "after", name

    assert len(alice.tasks.list(after=tasks, limit=7)) == 2
    assert len(alice.history(chats[0], after=said, source="events")) == 2


@pytest.mark.parametrize("values", [("a", 1), (2**63, 1), (-1, 1), (1,), (1.5, 1), (None, 1)])
def test_a_cursor_that_was_made_up_is_refused_and_not_sent(values: tuple[Any, ...]) -> None:
    known = Cursors("alice", ("tasks", None), (int, int))
    made_up = known._cursor(values)

    with pytest.raises(InvalidInput):
        known.read(made_up)


@pytest.mark.parametrize("text", ["2024-01-01T00:00:00", "2024-01-01", "soon", "\ud800"])
@pytest.mark.parametrize("as_of", [None, 3])
def test_a_made_up_cursor_with_a_time_without_zone_is_refused(
    alice: User, monkeypatch: pytest.MonkeyPatch, text: str, as_of: int | None
) -> None:
    make_tasks(alice, 3)
    alice.tasks.list(as_of=as_of, order="updated")
    with monkeypatch.context() as patch:
        patch.setattr(TaskOrdering, "values", lambda *_: (text, 1))
        made_up = cursor(alice.tasks.list(limit=1, order="updated", as_of=as_of))

    with pytest.raises(InvalidInput, match=r"^after: is no cursor of this list"):
        alice.tasks.list(after=made_up, order="updated", as_of=as_of)


def test_a_cursor_is_a_word_that_needs_no_escape_in_a_url(alice: User) -> None:
    for title in ("ÿþ?>~/+ 牛乳", "x" * 500):
        alice.tasks.create(title)
    alice.tasks.create("zz")

    found = cursor(alice.tasks.list(order="title", limit=1))

    assert set(found) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert urlsafe_b64encode(urlsafe_b64decode(found + "==")).decode().rstrip("=") == found
    assert len(everything(alice.tasks.list, order="title", limit=1)) == 3
