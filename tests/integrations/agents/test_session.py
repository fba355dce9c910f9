"""The session of the Agents SDK: its items come back, whoever adds them and however they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from typing import Any, cast

import pytest
from agents import Agent, RunContextWrapper, Runner, TResponseInputItem
from agents.extensions.memory import EncryptedSession
from agents.memory import OpenAIResponsesCompactionSession, Session, SessionSettings
from agents.testing import ScriptedModel, assistant_message

from eventstore import AsyncEventStore, AsyncUser, ConfigurationError, InvalidInput, Settings
from eventstore.integrations.agents import EventStoreSession, RecordToolCalls
from tests.integrations.agents.test_recording import agent, call, calls_of
from tests.support.proxy import Proxy, url_through

pytestmark = pytest.mark.anyio

type Items = list[TResponseInputItem]


def items(*bodies: dict[str, Any]) -> Items:
    return cast("Items", list(bodies))


def said(*texts: str) -> Items:
    return items(*({"role": "user", "content": text} for text in texts))


EXCHANGES = items(
    {"role": "user", "content": "first"},
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}", "id": "fc_1"},
    {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "1"},
    {"type": "function_call_output", "call_id": "c2", "output": "2"},
    {"role": "user", "content": "second"},
    {"type": "mcp_approval_request", "id": "m1", "name": "x", "arguments": "", "server_label": "s"},
    {"type": "mcp_approval_response", "approval_request_id": "m1", "approve": True},
)


@pytest.fixture
def session(alice: AsyncUser) -> EventStoreSession:
    return EventStoreSession("s", alice)


async def test_it_is_a_session(session: EventStoreSession) -> None:
    assert isinstance(session, Session)


async def test_items_come_back_exactly_in_their_order_and_with_their_keys(
    session: EventStoreSession,
) -> None:
    added = items(
        {"content": "key order", "role": "user"},
        {"role": "user", "content": "NUL \x00 and a lone surrogate \ud800"},
        {"type": "function_call", "call_id": "c", "name": "n", "arguments": '{ "a" : 1.10}'},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text"}]},
        {"type": "from_the_future", "number": 10**30, "nothing": None, "half": 0.5},
    )

    await session.add_items(added)

    assert json.dumps(await session.get_items()) == json.dumps(added)


async def test_a_session_that_nobody_used_is_empty(session: EventStoreSession) -> None:
    assert await session.get_items() == []
    assert await session.pop_item() is None
    await session.clear_session()
    await session.add_items([])
    assert await session.get_items() == []


async def test_processes_that_begin_one_session_at_once_share_it(alice: AsyncUser) -> None:
    await asyncio.gather(*(EventStoreSession("s", alice).add_items(said(f"{n}")) for n in range(5)))

    found = await EventStoreSession("s", alice).get_items()
    assert sorted(str(one.get("content")) for one in found) == ["0", "1", "2", "3", "4"]
    assert len(await alice.conversations.list()) == 1


async def test_users_have_sessions_of_their_own(async_store: AsyncEventStore) -> None:
    for name in ("alice", "bob"):
        await EventStoreSession("s", async_store.user(name)).add_items(said(name))

    assert await EventStoreSession("s", async_store.user("bob")).get_items() == said("bob")


async def test_the_newest_items_are_given(session: EventStoreSession) -> None:
    await session.add_items(said("1", "2", "3"))

    assert await session.get_items(2) == said("2", "3")
    assert await session.get_items(0) == []
    session.session_settings = SessionSettings(limit=1)
    assert await session.get_items() == said("3")
    assert await session.get_items(3) == said("1", "2", "3")


@pytest.mark.parametrize("limit", range(1, 11))
async def test_the_settings_limit_never_parts_a_call_from_its_output(
    session: EventStoreSession, limit: int
) -> None:
    await session.add_items(EXCHANGES)
    session.session_settings = SessionSettings(limit=limit)

    found = await session.get_items()

    lengths = {1: 2, 2: 2, 3: 3, 4: 8, 5: 8, 6: 8, 7: 8, 8: 8, 9: 9, 10: 9}
    assert found == EXCHANGES[len(EXCHANGES) - lengths[limit] :]


async def test_the_last_item_is_taken_away_and_stays_in_the_log(
    session: EventStoreSession, alice: AsyncUser
) -> None:
    await session.add_items(said("1", "2"))

    assert await session.pop_item() == said("2")[0]

    assert await session.get_items() == said("1")
    assert len(await alice.events(types=["MessagePosted"])) == 2


async def test_a_cleared_session_goes_on(session: EventStoreSession) -> None:
    await session.add_items(said("1", "2"))
    await session.clear_session()
    await session.add_items(said("3"))

    assert await session.get_items() == said("3")


async def test_a_deleted_conversation_begins_anew_with_the_next_items(
    session: EventStoreSession, alice: AsyncUser
) -> None:
    await session.add_items(said("1"))
    await alice.conversations.delete("s")

    assert await session.get_items() == []
    await session.add_items(said("2"))
    assert await session.get_items() == said("2")


async def test_more_items_than_an_append_takes_are_added(session: EventStoreSession) -> None:
    many = said(*map(str, range(1200)))

    await session.add_items(many)

    assert await session.get_items() == many


@pytest.fixture
async def slow_alice(database_url: str, proxy: Proxy) -> AsyncIterator[AsyncUser]:
    settings = Settings(database_url=url_through(proxy, database_url), pool_max_size=2)
    async with AsyncEventStore.connect(settings=settings) as store:
        yield store.user("alice")


async def test_a_cancelled_addition_has_settled_when_the_cancellation_goes_on(
    slow_alice: AsyncUser,
) -> None:
    session = EventStoreSession("s", slow_alice)
    await session.add_items(said("0"))
    cancelled = 0
    for number in range(1, 10):
        task = asyncio.create_task(session.add_items(said(f"{number}")))
        for _ in range(number):
            await asyncio.sleep(0)
        # On a busy machine it may have ended before.
        in_time = task.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) if in_time else nullcontext():
            await task
        cancelled += in_time

        expected = said(*map(str, range(number + 1)))
        found = await session.get_items()
        # Cancelled before its first step it has done nothing; later it has done all.
        assert found in (expected, expected[:-1]) if number == 0 else found == expected
    assert cancelled


async def test_the_user_is_found_by_the_context_of_the_run(async_store: AsyncEventStore) -> None:
    session = EventStoreSession("s", lambda wrapper: async_store.user(wrapper.context["user_id"]))
    one: Agent[Any] = Agent(name="a", model=ScriptedModel([[assistant_message("hi")]] * 2))
    for name in ("alice", "bob"):
        await Runner.run(one, f"I am {name}", session=session, context={"user_id": name})

    found = await EventStoreSession("s", async_store.user("bob")).get_items()
    assert found[0] == said("I am bob")[0]
    assert len(found) == 2
    context = RunContextWrapper({"user_id": "alice"})
    assert len(await session.get_items(wrapper=context)) == 2
    with pytest.raises(ConfigurationError, match="outside of a run"):
        await session.get_items()


async def test_a_user_of_a_sync_store_is_refused() -> None:
    with pytest.raises(InvalidInput, match="AsyncEventStore"):
        EventStoreSession("s", cast("AsyncUser", "alice"))


async def test_the_encrypted_session_keeps_its_items_here(
    session: EventStoreSession, alice: AsyncUser
) -> None:
    encrypted = EncryptedSession("s", cast("Any", session), encryption_key="k" * 32)
    one = agent([call("add_task", "c1", title="milk")], [assistant_message("Done.")])

    result = await Runner.run(
        one, "secret", session=encrypted, hooks=RecordToolCalls(), context=alice
    )

    assert await encrypted.get_items() == result.to_input_list()
    assert all(one.get("__enc__") == 1 for one in await session.get_items())
    assert [one.status for one in await calls_of(alice)] == ["succeeded"]
    assert await encrypted.pop_item() == result.to_input_list()[-1]


async def test_compaction_replaces_the_history_after_a_run(alice: AsyncUser) -> None:
    async def newest(history: Items) -> Items | None:
        return history[-2:] if len(history) > 2 else None

    session = EventStoreSession("s", alice, compact=newest)
    one: Agent[Any] = Agent(name="a", model=ScriptedModel([[assistant_message("hi")]] * 3))
    for text in ("1", "2", "3"):
        await Runner.run(one, text, session=session)

    first, answer = await session.get_items()
    assert first == said("3")[0]
    assert answer.get("role") == "assistant"


async def test_compaction_replaces_nothing_if_somebody_adds_meanwhile(alice: AsyncUser) -> None:
    async def interrupted(history: Items) -> Items | None:
        await EventStoreSession("s", alice).add_items(said("meanwhile"))
        return said("summary")

    session = EventStoreSession("s", alice, compact=interrupted)
    await session.add_items(said("1", "2"))

    await session.run_compaction()

    assert await session.get_items() == said("1", "2", "meanwhile")


class Compacted:
    """What the API answers: an object with the output that replaces its input."""

    output = ({"type": "compaction", "encrypted_content": "short"},)
    usage = None


class CompactingClient:
    """A client of OpenAI's whose only method is the one that is called."""

    def __init__(self, meanwhile: Callable[[], Any] | None = None) -> None:
        self.responses = self
        self.meanwhile = meanwhile

    async def compact(self, **_: object) -> Compacted:
        if self.meanwhile is not None:
            await self.meanwhile()
        return Compacted()


@pytest.mark.parametrize("interrupted", [False, True])
async def test_openai_s_compaction_replaces_a_tail_that_did_not_change(
    session: EventStoreSession, interrupted: bool
) -> None:
    async def add() -> None:
        await session.add_items(said("meanwhile"))

    session.session_settings = SessionSettings(limit=3)
    await session.add_items(said("old 1", "old 2", "old 3"))
    compacting = OpenAIResponsesCompactionSession(
        "s",
        session,
        client=cast("Any", CompactingClient(add if interrupted else None)),
        should_trigger_compaction=lambda _: True,
    )
    one: Agent[Any] = Agent(name="a", model=ScriptedModel([[assistant_message("hi")]]))

    await Runner.run(one, "new", session=compacting)

    found = await session.get_items(100)
    kinds = [one.get("content") or one.get("type") for one in found]
    if interrupted:
        assert kinds[-1] == "meanwhile"
        assert len(found) == 6
    else:
        assert kinds == ["compaction"]
