"""A run as a turn: once for each request, in four round trips, and failed where it raised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import (
    Agent,
    MaxTurnsExceeded,
    RunConfig,
    Runner,
    ToolTimeoutError,
    UserError,
    function_tool,
)
from agents.testing import ScriptedModel, assistant_message
from agents.tool_context import ToolContext

from eventstore import (
    AsyncEventStore,
    AsyncUser,
    ConversationBusy,
    EventStore,
    InvalidInput,
    Settings,
)
from eventstore.integrations.agents import EventStoreSession, RecordToolCalls
from tests.integrations.agents.test_recording import agent, call, calls_of
from tests.support.proxy import Proxy, url_through
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


async def answer(
    user: AsyncUser, one: Agent[AsyncUser], text: str = "hello", key: str = "r1", **options: Any
) -> Any:
    async with EventStoreSession("s", user).turn(text, key=key, context=user) as turn:
        if not turn.ended:
            await Runner.run(
                one,
                turn.input,
                session=turn.session,
                hooks=turn.hooks,
                context=user,
                **options,
            )
    return turn


def one_tool() -> Agent[AsyncUser]:
    return agent([call("add_task", "c1", title="milk")], [assistant_message("Done.")])


async def test_a_turn_has_the_items_the_calls_and_the_cost_of_its_run(alice: AsyncUser) -> None:
    turn = await answer(alice, one_tool())

    items = await EventStoreSession("s", alice).get_items()
    assert [one.get("type", one.get("role")) for one in items] == [
        "user",
        "function_call",
        "function_call_output",
        "message",
    ]
    (recorded,) = await calls_of(alice)
    assert (recorded.status, recorded.output) == ("succeeded", "added milk")
    assert recorded.message_id is not None
    assert (turn.record.status, turn.record.input_tokens) == ("completed", 20)
    assert turn.answer.body == items[-1]


async def test_a_turn_that_is_ended_while_a_tool_runs_leaves_no_call_pending(
    alice: AsyncUser,
) -> None:
    one = agent([call("sleep_long", "c1")], [assistant_message("Done.")])
    async with EventStoreSession("s", alice).turn("hello", key="r1", context=alice) as turn:
        streamed = Runner.run_streamed(
            one, turn.input, session=turn.session, hooks=turn.hooks, context=alice
        )

        async def consume() -> None:
            async for _ in streamed.stream_events():
                pass

        consumed = asyncio.create_task(consume())
        async with asyncio.timeout(15):
            while not await calls_of(alice):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.02)
        streamed.cancel()
        await asyncio.wait([consumed])
        await turn.end()

        (recorded,) = await alice.turns.list("s")
        assert turn.ended
        assert recorded.status == "completed"
        assert [one.status for one in await calls_of(alice)] == ["abandoned"]
        await turn.end()

    assert await alice.turns.list("s") == [recorded]


async def test_a_request_that_is_sent_again_is_answered_with_the_first_answer(
    alice: AsyncUser,
) -> None:
    first = await answer(alice, one_tool())

    again = await answer(alice, agent())

    assert again.answer == first.answer
    assert len(await alice.tasks.list()) == 1


async def test_a_later_turn_is_given_what_was_said_before(alice: AsyncUser) -> None:
    await answer(alice, one_tool())
    second = agent([assistant_message("Again.")])

    await answer(alice, second, "more", key="r2")

    requested = second.model.calls[0].input  # type: ignore[union-attr]  # a scripted model
    assert [one.get("content") for one in requested if one.get("role") == "user"] == [
        "hello",
        "more",
    ]
    assert len(await EventStoreSession("s", alice).get_items()) == 6


async def test_a_run_that_raises_makes_its_turn_failed_with_its_cost(alice: AsyncUser) -> None:
    requested = [[call("add_task", f"c{number}", title="milk")] for number in range(3)]

    with pytest.raises(MaxTurnsExceeded):
        await answer(alice, agent(*requested), max_turns=2)

    (turn,) = await alice.turns.list("s")
    assert (turn.status, turn.input_tokens) == ("failed", 20)
    assert "MaxTurnsExceeded" in turn.error
    assert [one.status for one in await calls_of(alice)] == ["succeeded", "succeeded"]


async def test_a_turn_that_failed_is_continued_after_what_it_recorded(alice: AsyncUser) -> None:
    requested = [[call("add_task", f"c{number}", title="milk")] for number in range(2)]
    with pytest.raises(MaxTurnsExceeded):
        await answer(alice, agent(*requested), max_turns=1)

    continued = agent([assistant_message("Done.")])
    turn = await answer(alice, continued)

    given = continued.model.calls[0].input  # type: ignore[union-attr]  # a scripted model
    assert [one.get("type", one.get("role")) for one in given] == [
        "user",
        "function_call",
        "function_call_output",
    ]
    assert (turn.record.status, turn.record.attempt) == ("completed", 2)
    assert len(await alice.tasks.list()) == 1


async def test_a_call_that_a_dead_process_left_open_keeps_its_id(alice: AsyncUser) -> None:
    # A process that died as its tool ran has recorded the request of the call, and no item.
    session = EventStoreSession("s", alice)
    async with session.turn("hello", key="r1") as dead:
        assert dead._run is not None
        await dead._run.request("c1", "add_task", '{"title": "milk"}')
        dead._run.running.clear()
        raised = RuntimeError("killed")
        await dead._block.__aexit__(RuntimeError, raised, None)  # type: ignore[union-attr]
        dead._run = None

    one = agent([assistant_message("Done.")])
    async with session.turn("hello", key="r1", context=alice) as turn:
        assert isinstance(one.model, ScriptedModel)
        one.model = turn.continued(one.model)
        await Runner.run(one, turn.input, session=turn.session, hooks=turn.hooks, context=alice)

    (recorded,) = await calls_of(alice)
    assert (recorded.call_id, recorded.status) == ("c1", "succeeded")
    assert recorded.message_id is not None
    assert [one.get("call_id") for one in await session.get_items()] == [None, "c1", "c1", None]
    assert turn.record.status == "completed"


async def test_a_tool_that_did_not_end_with_its_run_is_abandoned(alice: AsyncUser) -> None:
    both = [call("break_the_run", "c1"), call("sleep_long", "c2")]
    with pytest.raises(Exception, match="no more power"):
        await answer(alice, agent(both))

    found = {one.call_id: one.status for one in await calls_of(alice)}
    assert found == {"c1": "failed", "c2": "abandoned"}


async def test_a_call_that_was_refused_keeps_nothing_else_from_being_recorded(
    alice: AsyncUser,
) -> None:
    with pytest.raises(UserError, match="the limit is 255"):
        await answer(alice, agent([call("move_nothing", "c" * 256)]))

    (turn,) = await alice.turns.list("s")
    assert (turn.status, turn.input_tokens) == ("failed", 10)


async def test_an_output_that_cannot_be_stored_keeps_no_other_from_being_recorded(
    alice: AsyncUser,
) -> None:
    with pytest.raises(InvalidInput, match="the limit is 16777216"):
        await answer(alice, agent([call("return_too_much", "c1"), call("move_nothing", "c2")]))

    assert [one.status for one in await calls_of(alice)] == ["pending", "succeeded"]
    (turn,) = await alice.turns.list("s")
    assert (turn.status, turn.input_tokens) == ("failed", 10)


async def test_more_items_than_an_append_takes_are_added_in_a_turn(alice: AsyncUser) -> None:
    items: Any = [{"role": "user", "content": f"{number}"} for number in range(1001)]
    session = EventStoreSession("s", alice)
    async with session.turn("hello", key="r1") as turn:
        await turn.session.add_items(items)

    assert (await session.get_items())[1:] == items


async def test_a_turn_that_is_cancelled_at_each_step_of_its_end_is_failed_all_the_same(
    alice: AsyncUser,
) -> None:
    begun = asyncio.Event()

    async def wait_in_turn() -> None:
        async with EventStoreSession("s", alice).turn("hello", key="r1") as turn:
            assert turn._run is not None
            await turn._run.request("c1", "sleep_long", "{}")
            begun.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(wait_in_turn())
    await begun.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)

    assert task.cancelled()
    (turn,) = await alice.turns.list("s")
    assert turn.status == "failed"
    assert [one.status for one in await calls_of(alice)] == ["abandoned"]


async def test_a_turn_that_is_cancelled_while_it_begins_is_left_to_the_next_request(
    alice: AsyncUser,
) -> None:
    await alice.conversations.start(key="s")

    async def wait_in_turn(key: str) -> None:
        async with EventStoreSession("s", alice).turn("hello", key=key):
            await asyncio.sleep(60)

    for number in range(40):
        task = asyncio.create_task(wait_in_turn(f"r{number}"))
        await asyncio.sleep(number * 0.0005)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()
        assert {one.status for one in await alice.turns.list("s", limit=50)} <= {"failed"}

    task = asyncio.create_task(wait_in_turn("begun"))
    async with asyncio.timeout(15):
        while not [one for one in await alice.turns.list("s") if one.key == "begun"]:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    async with EventStoreSession("s", alice).turn("hello", key="begun", wait_seconds=0) as turn:
        assert turn.record.attempt == 2  # the one before had begun


@pytest.mark.parametrize("raises", [False, True])
def test_an_event_loop_that_ends_leaves_no_turn_that_nobody_works_on(
    database_url: str, raises: bool
) -> None:
    async def main(key: str, seconds: float) -> asyncio.Task[None]:
        # The tasks that would connect again are cancelled as well.
        settings = Settings(database_url=database_url, pool_min_size=4)
        store = await AsyncEventStore.connect(settings=settings)
        alice = store.user("alice")
        await asyncio.gather(*[alice.turns.list("s") for _ in range(4)])

        async def work() -> None:
            async with EventStoreSession("s", alice).turn("hello", key=key, wait_seconds=0):
                if raises:
                    raise ValueError

        working = asyncio.create_task(work())
        working.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.sleep(seconds)
        return working  # a loop has weak references alone

    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        alice.conversations.start(key="s")
        for number in range(20):
            asyncio.run(main(f"r{number}", number * 0.0005))
            # What was sent last may still arrive.
            until(lambda: "running" not in {one.status for one in alice.turns.list("s")})


async def test_a_turn_that_is_cancelled_while_it_waits_for_another_one_waits_no_longer(
    alice: AsyncUser,
) -> None:
    session = EventStoreSession("s", alice)
    async with session.turn("hello", key="r1"):
        waiting = asyncio.create_task(session.turn("hi", key="r2", wait_seconds=20).__aenter__())
        await asyncio.sleep(0.2)
        waiting.cancel()
        done, _ = await asyncio.wait({waiting}, timeout=5)

        assert done == {waiting}
        assert waiting.cancelled()
        assert [one.key for one in await alice.turns.list("s")] == ["r1"]


async def test_two_turns_of_a_session_do_not_run_at_once(alice: AsyncUser) -> None:
    session = EventStoreSession("s", alice)
    async with session.turn("hello", key="r1"):
        with pytest.raises(ConversationBusy):
            async with session.turn("hello", key="r2", wait_seconds=0):
                pass


@pytest.fixture
def proxied(database_url: str, proxy: Proxy) -> Settings:
    return Settings(database_url=url_through(proxy, database_url), pool_max_size=1)


@pytest.fixture
async def remote_alice(proxied: Settings) -> AsyncIterator[AsyncUser]:
    async with AsyncEventStore.connect(settings=proxied) as store:
        user = store.user("alice")
        for number in range(7):  # past the threshold for prepared statements
            await user.tasks.create(f"warm up {number}")
        await user.conversations.start(key="s")
        yield user


async def test_a_turn_with_a_tool_call_is_four_round_trips(
    remote_alice: AsyncUser, proxy: Proxy
) -> None:
    one = agent([call("move_nothing", "c1")], [assistant_message("Done.")])
    proxy.count()

    await answer(remote_alice, one)

    assert proxy.count() == 4


async def test_parallel_calls_take_no_round_trips_of_their_own(
    remote_alice: AsyncUser, proxy: Proxy
) -> None:
    requested = [call("move_nothing", f"c{number}") for number in range(5)]
    one = agent(requested, [assistant_message("Done.")])
    proxy.count()

    await answer(remote_alice, one)

    assert proxy.count() == 4


async def test_a_plain_run_with_a_tool_call_is_six_round_trips(
    remote_alice: AsyncUser, proxy: Proxy
) -> None:
    one = agent([call("move_nothing", "c1")], [assistant_message("Done.")])
    proxy.count()

    await Runner.run(
        one, "hello", session=EventStoreSession("s", remote_alice), hooks=RecordToolCalls()
    )

    assert proxy.count() == 6


async def test_what_a_callback_puts_among_the_input_doubles_nothing(alice: AsyncUser) -> None:
    said = {"role": "system", "content": "it is five"}

    def with_time(history: list[Any], sent: list[Any]) -> list[Any]:
        return [said, *history, *sent]

    config = RunConfig(session_input_callback=with_time)
    await answer(alice, agent([assistant_message("Done.")]), run_config=config)

    items = await EventStoreSession("s", alice).get_items()
    assert [one.get("content") for one in items[:2]] == ["hello", "it is five"]
    assert len(items) == 3


async def test_a_run_goes_on_in_a_turn_after_an_approval(alice: AsyncUser) -> None:
    @function_tool(needs_approval=True)
    async def delete_all(context: ToolContext[AsyncUser]) -> str:
        return "deleted"

    steps = [call("delete_all", "c1")], [call("move_nothing", "c2")], [assistant_message("Done.")]
    one = agent(*steps)
    one.tools.append(delete_all)
    session = EventStoreSession("s", alice)
    async with session.turn("hello", key="k1", context=alice) as turn:
        paused = await Runner.run(
            one, turn.input, session=turn.session, hooks=turn.hooks, context=alice
        )
    state = paused.to_state()
    state.approve(paused.interruptions[0])

    async with session.turn([], key="k2", context=alice) as turn:
        await Runner.run(one, state, session=turn.session, hooks=turn.hooks)

    calls = {one.call_id: (one.status, one.message_id is None) for one in await calls_of(alice)}
    assert calls == {"c1": ("succeeded", False), "c2": ("succeeded", False)}
    assert len(await calls_of(alice)) == 2
    assert sorted(one.status for one in await alice.turns.list("s")) == ["completed"] * 2
    assert (turn.record.status, turn.record.input_tokens) == ("completed", 20)


async def test_a_tool_whose_time_ends_the_run_is_failed(alice: AsyncUser) -> None:
    @function_tool(timeout=0.01, timeout_behavior="raise_exception")
    async def wait(context: ToolContext[AsyncUser]) -> str:
        await asyncio.sleep(60)
        return "never"

    one = agent([call("wait", "c1")])
    one.tools.append(wait)
    with pytest.raises(ToolTimeoutError):
        await answer(alice, one)

    assert [(one.status, one.error) for one in await calls_of(alice)] == [
        ("failed", "ToolTimeoutError: Tool 'wait' timed out after 0.01 seconds.")
    ]
