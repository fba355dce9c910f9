"""Given, when, then: what a scenario accepts, and what it finds wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from eventstore import (
    AsyncUser,
    EventEnvelope,
    EventStore,
    InvalidInput,
    NewEvent,
    NotFound,
    TaskCompleted,
    TaskCreated,
    TaskReopened,
    User,
)
from eventstore.testing import Scenario
from projections import Insert, RowChange, Task, projector
from tests.support.own_read_model import Box, Boxed, Done

type Begin = Callable[..., Scenario]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def complete_all(user: User) -> int:
    tasks = user.tasks.list(completed=False)
    for task in tasks:
        user.tasks.complete(task.id)
    return len(tasks)


async def complete_all_async(user: AsyncUser) -> int:
    tasks = await user.tasks.list(completed=False)
    for task in tasks:
        await user.tasks.complete(task.id)
    return len(tasks)


@pytest.mark.parametrize("act", [complete_all, complete_all_async])
def test_what_is_done_is_compared_with_the_events_that_are_expected(
    given: Begin, act: Callable[..., object]
) -> None:
    scenario = given(TaskCreated(title="Buy milk"))

    scenario.when(act).then(TaskCompleted())
    assert scenario.result == 1
    scenario.when(act).then()
    scenario.given(TaskReopened()).when(act).then(TaskCompleted)
    assert scenario.appended()[0].stream_id == scenario.stream("task")

    scenario.given(TaskReopened())
    for expected in ((), (TaskReopened(),), (TaskReopened,), (TaskCompleted(), TaskCompleted())):
        with pytest.raises(AssertionError, match="but appended TaskCompleted"):
            scenario.when(act).then(*expected)
        scenario.given(TaskReopened())


def test_what_is_refused_wrote_nothing(given: Begin) -> None:
    scenario = given(TaskCreated(title="Buy milk"))

    scenario.when(lambda user: user.tasks.complete(uuid4())).then_refused(NotFound, "task")
    scenario.then()

    scenario.when(lambda user: user.tasks.create(""))
    with pytest.raises(AssertionError, match="expected NotFound, but it was"):
        scenario.then_refused(NotFound)
    with pytest.raises(AssertionError, match="it was None"):
        scenario.when(complete_all).then_refused(NotFound)
    scenario.when(lambda user: [user.tasks.create("a"), user.tasks.create("")])
    with pytest.raises(AssertionError, match="it was refused, but appended TaskCreated"):
        scenario.then_refused(InvalidInput)


@pytest.mark.parametrize("then", ["when", "then", "then_rows"])
def test_an_error_that_nobody_expects_is_raised(given: Begin, then: str) -> None:
    scenario = given().when(lambda user: user.tasks.complete(uuid4()))
    arguments: dict[str, object] = {"when": complete_all, "then": TaskCreated, "then_rows": Task}

    with pytest.raises(NotFound):
        getattr(scenario, then)(arguments[then])


def test_rows_are_compared_in_any_order_by_the_columns_that_are_named(given: Begin) -> None:
    scenario = given(
        Boxed(done="made"),
        Boxed(done="made", name="lid", value=[1]),
        Boxed(done="counted", value=2),
    )

    scenario.then_rows(Box, {"name": "lid", "n": 0}, {"name": "box", "n": 2}).then_rows(Done)

    for wrong in ([{"n": 2}], [{"n": 2}, {"n": 2}], [{"n": 2}, {"n": 0}, {"n": 0}]):
        with pytest.raises(AssertionError, match="rows of Box: expected and missing"):
            scenario.then_rows(Box, *wrong)
    with pytest.raises(AssertionError, match="not expected"):
        scenario.then_rows(Box)


def test_what_follows_a_time_happened_then(given: Begin) -> None:
    scenario = given().at(NOON).given(TaskCreated(title="Buy milk")).when(complete_all)

    scenario.then_rows(Task, {"created_at": NOON, "completed_at": NOON})
    assert {one.occurred_at for one in scenario.user.events()} == {NOON}


def test_an_event_may_name_its_stream_and_each_user_has_a_scenario(given: Begin) -> None:
    task = uuid4()
    given(NewEvent(stream_id=task, data=TaskCreated(title="Buy milk")))

    given(user_id="bob").then_rows(Task)
    given().then_rows(Task, {"id": task})


def test_a_projector_that_is_no_pure_function_is_found(
    event_store_url: str, event_store_server: object
) -> None:
    counter = iter(range(100))

    @projector(Done)
    def project_the_time(event: EventEnvelope) -> Iterator[RowChange]:
        yield Insert(Done, {"id": event.event_id, "at": NOON.replace(minute=next(counter))})

    with EventStore.connect(event_store_url, projectors=[project_the_time]) as store:
        scenario = Scenario(store).given(TaskCreated(title="Buy milk"))

        with pytest.raises(AssertionError, match="differ from the replay of the log"):
            scenario.then_rows(Done, {"at": NOON})


def test_the_database_of_a_test_is_its_own(event_store: EventStore, given: Begin) -> None:
    assert list(event_store.users()) == []
    assert isinstance(given(TaskCreated(title="x")).stream("task"), UUID)
