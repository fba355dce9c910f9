"""Runs of the real SDK: what is recorded of their calls, however they end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    Usage,
    UserError,
    function_tool,
    input_guardrail,
    output_guardrail,
)
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.tool import default_tool_error_function
from agents.tool_context import ToolContext

from eventstore import AsyncUser
from eventstore.integrations.agents import (
    EventStoreSession,
    RecordToolCalls,
    current_call,
    recording,
)
from projections.models.tool_call import ToolCallView

pytestmark = pytest.mark.anyio

USAGE = Usage(requests=1, input_tokens=10, output_tokens=2, total_tokens=12)
SEEN: list[Any] = []


def scripted(*steps: Any) -> ScriptedModel:
    return ScriptedModel([ModelStep(output=one, usage=USAGE) for one in steps])


def call(name: str, call_id: str, **arguments: Any) -> Any:
    return function_call(name, arguments, call_id=call_id)


@function_tool
async def add_task(context: ToolContext[AsyncUser], title: str) -> str:
    """Add a task, and look at what is recorded of the call meanwhile."""
    SEEN.append(await context.context.tool_calls.find("s", context.tool_call_id))
    made = await context.context.tasks.create(title, caused_by=current_call(context))
    return f"added {made.title}"


@function_tool
async def break_down(context: ToolContext[AsyncUser]) -> str:
    raise ValueError("no more paper")


@function_tool(failure_error_function=lambda context, error: f"sorry: {error}")
async def break_kindly(context: ToolContext[AsyncUser]) -> str:
    raise ValueError("no more ink")


@function_tool(failure_error_function=default_tool_error_function)
async def explain(context: ToolContext[AsyncUser]) -> str:
    raise ValueError("no more words")


@function_tool(failure_error_function=None)
async def break_the_run(context: ToolContext[AsyncUser]) -> str:
    raise ValueError("no more power")


@function_tool(timeout=0.01)
async def sleep(context: ToolContext[AsyncUser]) -> str:
    await asyncio.sleep(60)
    return "never"


@function_tool
async def move_money(context: ToolContext[AsyncUser], title: str) -> str:
    async with recording(context) as tx:
        tx.tasks.create(title, caused_by=tx.call)
        tx.output = {"moved": title}
    return "moved it"


@function_tool
async def move_nothing(context: ToolContext[AsyncUser]) -> str:
    return "moved"


@function_tool
async def sleep_long(context: ToolContext[AsyncUser]) -> str:
    await asyncio.sleep(60)
    return "never"


@function_tool
async def begin_anew(context: ToolContext[AsyncUser]) -> str:
    await context.context.conversations.delete("s")
    return "deleted"


@function_tool
async def return_too_much(context: ToolContext[AsyncUser]) -> str:
    return "x" * (17 * 1024 * 1024)


TOOLS = [
    begin_anew,
    return_too_much,
    add_task,
    break_down,
    break_kindly,
    break_the_run,
    sleep,
    move_money,
    move_nothing,
    sleep_long,
]


def agent(*steps: Any, **options: Any) -> Agent[AsyncUser]:
    return Agent(name="todo", model=scripted(*steps), tools=list(TOOLS), **options)


async def run(user: AsyncUser, one: Agent[AsyncUser], text: str = "hello", **options: Any) -> Any:
    session = EventStoreSession("s", user)
    return await Runner.run(
        one, text, session=session, hooks=RecordToolCalls(), context=user, **options
    )


async def calls_of(user: AsyncUser) -> list[ToolCallView]:
    return await user.tool_calls.list(conversation="s", status=None)


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()


async def test_a_call_is_recorded_before_its_tool_runs_and_its_outcome_after(
    alice: AsyncUser,
) -> None:
    await run(alice, agent([call("add_task", "c1", title="milk")], [assistant_message("Done.")]))

    (before,), (after,) = SEEN, await calls_of(alice)
    assert (before.status, before.arguments) == ("pending", '{"title":"milk"}')
    assert (after.id, after.status, after.output) == (before.id, "succeeded", "added milk")


async def test_the_items_of_a_run_come_back_exactly_and_have_the_recorded_call(
    alice: AsyncUser,
) -> None:
    result = await run(
        alice, agent([call("add_task", "c1", title="milk")], [assistant_message("Done.")])
    )

    session = EventStoreSession("s", alice)
    assert await session.get_items() == result.to_input_list()
    projected = await alice.history("s")
    assert [[one.call_id for one in message.tool_calls] for message in projected] == [
        [],
        ["c1"],
        [],
        [],
    ]
    assert projected == await alice.history("s", source="events")
    assert len(await calls_of(alice)) == 1


async def test_what_a_tool_did_names_its_call_as_the_cause(alice: AsyncUser) -> None:
    await run(alice, agent([call("add_task", "c1", title="milk")], [assistant_message("Done.")]))

    (entry,) = await alice.audit(conversation="s")
    assert "TaskCreated" in [one.type for one in entry.caused]


@pytest.mark.parametrize("tracing", [True, False], indirect=True)
@pytest.mark.parametrize(
    ("tool", "error"),
    [
        ("break_down", "ValueError: no more paper"),
        ("break_kindly", "ValueError: no more ink"),
        ("sleep", "Tool 'sleep' timed out after 0.01 seconds."),
    ],
)
async def test_a_tool_that_raises_is_failed_though_the_model_gets_a_text(
    alice: AsyncUser, tool: str, error: str
) -> None:
    await run(alice, agent([call(tool, "c1")], [assistant_message("Sorry.")]))

    (failed,) = await calls_of(alice)
    assert (failed.status, failed.error) == ("failed", error)


async def test_a_tool_whose_error_ends_the_run_is_failed(alice: AsyncUser) -> None:
    with pytest.raises(Exception, match="no more power"):
        await run(alice, agent([call("break_the_run", "c1")]))

    (failed,) = await calls_of(alice)
    assert (failed.status, failed.error) == ("failed", "ValueError: no more power")


async def test_a_formatter_of_the_service_is_asked_as_before(alice: AsyncUser) -> None:
    config = RunConfig(tool_error_formatter=lambda args: f"formatted: {args.error}")

    result = await run(
        alice, agent([call("break_down", "c1")], [assistant_message("x")]), run_config=config
    )

    assert result.to_input_list()[2]["output"] == "formatted: no more paper"
    assert (await calls_of(alice))[0].status == "failed"


async def test_change_and_outcome_are_one_append(alice: AsyncUser) -> None:
    await run(alice, agent([call("move_money", "c1", title="gold")], [assistant_message("Done.")]))

    (entry,) = await calls_of(alice)
    created, ended = await alice.events(types=["TaskCreated", "ToolCallSucceeded"])
    assert (entry.status, entry.output) == ("succeeded", {"moved": "gold"})
    assert created.recorded_at == ended.recorded_at
    assert (created.position + 1, created.causation_id) == (ended.position, entry.id)


async def test_parallel_calls_are_recorded_each_with_its_own_outcome(alice: AsyncUser) -> None:
    requested = [
        call("add_task", "c1", title="milk"),
        call("break_down", "c2"),
        call("move_money", "c3", title="gold"),
    ]
    await run(alice, agent(requested, [assistant_message("Done.")]))

    found = {one.call_id: one.status for one in await calls_of(alice)}
    assert found == {"c1": "succeeded", "c2": "failed", "c3": "succeeded"}
    assert all(one.message_id is not None for one in await calls_of(alice))


async def test_a_streamed_run_is_recorded_alike(alice: AsyncUser) -> None:
    one = agent([call("add_task", "c1", title="milk")], [assistant_message("Done.")])

    streamed = Runner.run_streamed(
        one,
        "hello",
        session=EventStoreSession("s", alice),
        hooks=RecordToolCalls(),
        context=alice,
    )
    async for _ in streamed.stream_events():
        pass

    assert [one.status for one in await calls_of(alice)] == ["succeeded"]
    assert len(await EventStoreSession("s", alice).get_items()) == 4
    (turn,) = await alice.turns.list("s")
    assert (turn.status, turn.input_tokens, turn.output_tokens) == ("completed", 20, 4)


async def test_what_a_run_cost_is_a_turn(alice: AsyncUser) -> None:
    await run(alice, agent([call("add_task", "c1", title="milk")], [assistant_message("Done.")]))

    (turn,) = await alice.turns.list("s")
    (sums,) = await alice.turns.usage()
    assert (turn.status, turn.usage["requests"]) == ("completed", 2)
    assert (sums.turns, sums.input_tokens, sums.output_tokens) == (1, 20, 4)
    assert (await calls_of(alice))[0].correlation_id == turn.id


async def test_a_run_that_reaches_max_turns_has_its_calls_and_its_cost_and_no_end(
    alice: AsyncUser,
) -> None:
    requested = [[call("add_task", f"c{number}", title="milk")] for number in range(3)]
    with pytest.raises(MaxTurnsExceeded):
        await run(alice, agent(*requested), max_turns=2)

    (turn,) = await alice.turns.list("s")
    assert [one.status for one in await calls_of(alice)] == ["succeeded", "succeeded"]
    assert (turn.status, turn.input_tokens) == ("running", 20)


async def test_an_agent_that_is_a_tool_does_not_end_the_run(alice: AsyncUser) -> None:
    hooks = RecordToolCalls()
    inner = agent([call("move_nothing", "i1")], [assistant_message("Moved.")])
    outer = agent(
        [call("ask", "o1", input="move")],
        [call("move_nothing", "o2")],
        [assistant_message("Done.")],
    )
    outer.tools.append(inner.as_tool("ask", "Ask another one.", hooks=hooks))
    await Runner.run(
        outer, "hello", session=EventStoreSession("s", alice), hooks=hooks, context=alice
    )

    found = [(one.call_id, one.status, one.message_id is None) for one in await calls_of(alice)]
    assert found == [
        ("o1", "succeeded", False),
        ("i1", "succeeded", True),  # the inner run has no session, and its items are nowhere
        ("o2", "succeeded", False),
    ]
    (turn,) = await alice.turns.list("s")
    assert (turn.status, turn.input_tokens) == ("completed", 50)


async def test_a_handoff_is_recorded_in_the_same_conversation(alice: AsyncUser) -> None:
    writer = agent([call("add_task", "c2", title="milk")], [assistant_message("Done.")])
    writer.name = "writer"
    first = agent([call("transfer_to_writer", "c1")], handoffs=[writer])

    result = await run(alice, first)

    assert result.last_agent is writer
    found = {one.name: one.status for one in await calls_of(alice)}
    assert found == {"transfer_to_writer": "succeeded", "add_task": "succeeded"}
    assert len(await alice.turns.list("s")) == 1


@input_guardrail(run_in_parallel=False)
async def refuse_input(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


@output_guardrail
async def refuse_output(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


async def test_a_guardrail_that_trips_on_the_input_leaves_no_call(alice: AsyncUser) -> None:
    one = agent([call("add_task", "c1", title="milk")], input_guardrails=[refuse_input])

    with pytest.raises(InputGuardrailTripwireTriggered):
        await run(alice, one)

    assert await calls_of(alice) == []
    assert len(await EventStoreSession("s", alice).get_items()) == 1


async def test_a_guardrail_that_trips_on_the_output_leaves_the_calls_that_ran(
    alice: AsyncUser,
) -> None:
    one = agent(
        [call("add_task", "c1", title="milk")],
        [assistant_message("Done.")],
        output_guardrails=[refuse_output],
    )

    with pytest.raises(OutputGuardrailTripwireTriggered):
        await run(alice, one)

    assert [one.status for one in await calls_of(alice)] == ["succeeded"]
    (turn,) = await alice.turns.list("s")
    assert turn.status == "running"


async def test_what_raises_is_failed_though_it_was_given_the_sdks_own_message(
    alice: AsyncUser,
) -> None:
    inner = Agent[AsyncUser](name="inner", model=ScriptedModel([]))
    steps = [call("explain", "c1"), call("ask", "c2", input="x")]
    one = Agent[AsyncUser](
        name="outer",
        model=scripted(steps, [assistant_message("Done.")]),
        tools=[explain, inner.as_tool("ask", "asks")],
    )

    await run(alice, one)

    assert [one.status for one in await calls_of(alice)] == ["failed", "failed"]


async def test_an_approved_call_is_the_one_that_waited(alice: AsyncUser) -> None:
    @function_tool(needs_approval=True)
    async def delete_all(context: ToolContext[AsyncUser]) -> str:
        return "deleted"

    one = Agent[AsyncUser](
        name="todo",
        model=scripted([call("delete_all", "c1")], [assistant_message("Done.")]),
        tools=[delete_all],
    )
    paused = await run(alice, one)
    (waiting,) = await calls_of(alice)
    state = paused.to_state()
    state.approve(paused.interruptions[0])
    session = EventStoreSession("s", alice)
    await Runner.run(one, state, session=session, hooks=RecordToolCalls(session))

    (ended,) = await calls_of(alice)
    assert (waiting.status, ended.status, ended.output) == ("pending", "succeeded", "deleted")
    assert ended.id == waiting.id
    assert len(await session.get_items()) == 4


async def test_a_run_goes_on_in_the_conversation_that_its_tool_deleted(alice: AsyncUser) -> None:
    steps = [call("begin_anew", "c1"), call("move_nothing", "c2")], [assistant_message("Done.")]
    result = await run(alice, agent(*steps))

    assert result.final_output == "Done."
    session = EventStoreSession("s", alice)
    kinds = ["function_call"] * 2 + ["function_call_output"] * 2 + ["message"]
    assert [one.get("type") for one in await session.get_items()] == kinds
    assert [one.call_id for one in await calls_of(alice)] == ["c1", "c2"]
    (turn,) = await alice.turns.list("s")
    assert turn.status == "completed"


async def test_an_output_that_cannot_be_stored_keeps_no_other_from_being_recorded(
    alice: AsyncUser,
) -> None:
    with pytest.raises(UserError, match="the limit is 16777216"):
        await run(alice, agent([call("return_too_much", "c1"), call("move_nothing", "c2")]))

    assert [one.status for one in await calls_of(alice)] == ["pending", "succeeded"]


async def test_a_tool_does_not_run_where_its_call_cannot_be_recorded(alice: AsyncUser) -> None:
    with pytest.raises(UserError, match="EventStoreSession"):
        await Runner.run(
            agent([call("add_task", "c1", title="milk")]),
            "hello",
            hooks=RecordToolCalls(),
            context=alice,
        )

    assert await alice.tasks.list() == []


async def test_hooks_that_were_forgotten_are_logged_for_the_model_alone_is_told(
    alice: AsyncUser, caplog: pytest.LogCaptureFixture
) -> None:
    model = scripted([call("move_money", "c1", title="milk")], [assistant_message("Done.")])
    one = Agent[AsyncUser](name="todo", model=model, tools=[move_money])

    await Runner.run(one, "hello", session=EventStoreSession("s", alice), context=alice)

    (logged,) = [one for one in caplog.records if one.name == "eventstore.agents"]
    assert "give the run hooks=RecordToolCalls()" in logged.getMessage()
    assert await alice.tasks.list() == []
