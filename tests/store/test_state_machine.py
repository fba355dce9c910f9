"""
Random commands by three users, compared with a model of the data of each user.

After every step the rows of the other two users must be unchanged in every table. Lists and
histories are compared with the model, now and as of earlier positions; at the end of a run the
lists are compared as of every position.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, ClassVar

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventstore import (
    ConversationRenamed,
    ConversationStarted,
    EventStore,
    Expected,
    IdempotencyConflict,
    NewEvent,
    NotFound,
    RecordedEvent,
    StreamClosed,
    TaskCreated,
    TaskUpdated,
    User,
    WrongVersion,
)
from tests.store import state_commands as drawn
from tests.store.state_commands import Choose, Command, end_call, pick_one
from tests.store.state_model import State, expected_history, history_values, read_digests
from tests.support.properties import examples
from tests.support.server import Server

USERS = st.sampled_from(["alice", "bob", "carol"])


class Machine(RuleBasedStateMachine):
    """A store with three users; `states` has the model's states of each, indexed by position."""

    server: ClassVar[Server]

    def __init__(self) -> None:
        super().__init__()
        self.url = self.server.create_database()
        self.admin = psycopg.connect(self.server.direct(self.url), autocommit=True)
        self.store = EventStore.connect(self.url)
        self.states = {name: [State()] for name in ("alice", "bob", "carol")}
        self.keyed: list[tuple[str, str, list[Command], list[RecordedEvent]]] = []
        self.acting: str | None = None
        for name in self.states:
            self.transaction(name, drawn.BEGINNING, keyed=True)
        self.digests = read_digests(self.admin)

    def teardown(self) -> None:
        try:
            if sys.exception() is None:  # a failed step is reported, not its consequences
                self.compare_everything()
        finally:
            self.store.close()
            self.admin.close()
            self.server.drop_database(self.url)

    # The steps.

    @rule(name=USERS, choose=drawn.STARTS | drawn.COMMANDS | drawn.ALONE | drawn.ENDS)
    def command(self, name: str, choose: Choose) -> None:
        before = self.act_as(name)
        command = choose(before)
        try:
            made = command.run(self.store.user(name))
        except (NotFound, StreamClosed) as refusal:
            with pytest.raises(type(refusal)):
                command.after(before, None)
        else:
            self.states[name] += command.after(before, made)

    @rule(
        name=USERS,
        chosen=drawn.TRANSACTIONS,
        keyed=st.booleans(),
    )
    def transaction(self, name: str, chosen: list[Choose], keyed: bool) -> None:
        self.act_as(name)
        key = f"key {len(self.keyed)}" if keyed else None
        commands: list[Command] = []
        states = list(self.states[name])
        refusal: Exception | None = None
        try:
            with self.store.user(name).transaction(idempotency_key=key) as tx:
                for choose in chosen:
                    command = choose(states[-1])
                    made = command.run(tx)
                    commands.append(command)
                    try:
                        states += command.after(states[-1], made)
                    except (NotFound, StreamClosed) as expected:
                        # The model refuses this command, so the commit has to raise an error.
                        refusal = expected
                        break
        except (NotFound, StreamClosed):
            assert refusal is not None
            return
        assert refusal is None
        assert len(tx.recorded) == len(states) - len(self.states[name])
        self.states[name] = [replace(state, fresh=frozenset()) for state in states]
        if key is not None and tx.recorded:
            self.keyed.append((name, key, commands, tx.recorded))

    @precondition(lambda self: self.keyed)
    @rule(pick=drawn.PICK)
    def retry(self, pick: int) -> None:
        name, key, commands, first = self.keyed[pick % len(self.keyed)]
        self.acting = None

        with self.store.user(name).transaction(idempotency_key=key) as tx:
            for command in commands:
                command.run(tx)

        assert tx.recorded == first

    @precondition(lambda self: self.keyed)
    @rule(pick=drawn.PICK, choose=st.builds(drawn.change_task, drawn.PICK, st.just("complete")))
    def use_a_key_for_other_content(self, pick: int, choose: Choose) -> None:
        name, key, _, first = self.keyed[pick % len(self.keyed)]
        self.acting = None

        transaction = self.store.user(name).transaction(idempotency_key=key)
        tx = transaction.__enter__()
        tx.tasks.create("new content")
        choose(self.states[name][-1]).run(tx)
        with pytest.raises(IdempotencyConflict) as conflict:
            transaction.__exit__(None, None, None)

        assert conflict.value.position == first[0].position

    @rule(
        name=USERS,
        pick=drawn.PICK,
        title=drawn.LABEL,
        expected=st.sampled_from(Expected) | st.integers(-2, 0),
    )
    def append(self, name: str, pick: int, title: str, expected: Expected | int) -> None:
        """Append one event; an integer in `expected` is added to the right version."""
        before = self.act_as(name)
        existing = [key for key, todo in before.tasks.items() if todo]
        existing += [key for key, chat in before.chats.items() if chat.status != "deleted"]
        stream = pick_one(existing, pick)
        if stream is None:
            return
        version = before.versions[stream]
        stated = expected if isinstance(expected, Expected) else max(version + expected, 0)
        kinds: Any = [TaskUpdated, ConversationRenamed]
        if stated in {Expected.NEW, 0}:
            kinds = [TaskCreated, ConversationStarted]
        data: Any = kinds[stream not in before.tasks](title=title)
        event = NewEvent(stream_id=stream, data=data, expected=stated)
        if stated not in {Expected.ANY, Expected.EXISTS, version}:
            with pytest.raises(WrongVersion) as conflict:
                self.store.user(name).append([event])
            assert conflict.value.actual == version
            return

        (recorded,) = self.store.user(name).append([event])

        assert (recorded.position, recorded.version) == (len(self.states[name]), version + 1)
        todo = before.tasks.get(stream)
        self.states[name].append(
            before.with_chat(stream, replace(before.chats[stream], title=title))
            if todo is None
            else before.with_task(stream, todo._replace(title=title))
        )

    @rule(name=USERS, pick=drawn.PICK, result=drawn.RESULT)
    def end_a_call_again(self, name: str, pick: int, result: Any) -> None:
        before = self.act_as(name)
        found = pick_one(before.pending(), pick)
        if found is None or before.chats[found[0]].status == "deleted":
            return
        chat, message, index = found
        call = before.chats[chat].messages[message].calls[index].reference
        user = self.store.user(name)
        command = end_call(before, found, "succeeded", result)
        first = command.run(user)
        self.states[name] += command.after(before, first)

        assert command.run(user) == first
        with pytest.raises(IdempotencyConflict):
            user.tool_calls.fail(call, error="otherwise")

    @rule(name=USERS | st.none(), spoil=st.booleans())
    def rebuild(self, name: str | None, spoil: bool) -> None:
        self.acting = None
        if spoil:
            for table in ("tool_call", "message", "conversation", "task"):
                self.admin.execute(
                    f"delete from eventstore.{table} where user_id = coalesce(%s, user_id)", [name]
                )

        rebuilt = self.store.rebuild(name)

        assert spoil or rebuilt.changed == 0
        assert rebuilt.rows == sum(
            states[-1].rows() for one, states in self.states.items() if name in {None, one}
        )

    # The comparisons with the model.

    @invariant()
    def other_users_are_unchanged(self) -> None:
        now = read_digests(self.admin)

        for name in self.states.keys() - {self.acting}:
            assert now.get(name) == self.digests.get(name)
        self.digests = now

    @invariant()
    def the_acting_user_equals_the_model(self) -> None:
        if self.acting is not None:
            self.compare_lists(self.acting, None)

    @rule(name=USERS, pick=drawn.PICK)
    def compare_an_earlier_position(self, name: str, pick: int) -> None:
        self.acting = None
        position = pick % len(self.states[name])

        self.compare_lists(name, position)
        self.compare_histories(name, position)

    def compare_everything(self) -> None:
        assert self.store.verify().problems == ()
        for name, states in self.states.items():
            for position in range(len(states)):
                self.compare_lists(name, position)
            self.compare_histories(name, len(states) - 1)
            self.compare_histories(name, None)

    def compare_lists(self, name: str, position: int | None) -> None:
        user, state = self.user_and_state(name, position)
        tasks = user.tasks.list(as_of=position, limit=1_000)
        chats = user.conversations.list(as_of=position, archived=None, limit=1_000)
        head = [event.position for event in user.events(as_of=position, limit=1_000)]

        assert [
            (one.id, (one.title, one.description, one.completed, one.tags)) for one in tasks
        ] == [(key, todo) for key, todo in state.tasks.items() if todo is not None]
        ordered = user.tasks.list(as_of=position, limit=1_000, order="manual")
        assert [one.id for one in ordered] == [one for one in state.order if state.tasks[one]]
        assert {one.id: (one.title, one.status, one.message_count) for one in chats} == {
            key: (chat.title, chat.status, len(chat.visible_messages()))
            for key, chat in state.chats.items()
            if chat.status != "deleted"
        }
        assert head == list(range(1, len(self.states[name]) if position is None else position + 1))

    def compare_histories(self, name: str, position: int | None) -> None:
        user, state = self.user_and_state(name, position)
        for key in self.states[name][-1].chats:
            chat = state.chats.get(key)
            if chat is None or chat.status == "deleted":
                for source in ("projection", "events"):
                    with pytest.raises(NotFound):
                        user.history(key, source=source, as_of=position)
                continue
            history = user.history(key, as_of=position)
            assert history == user.history(key, source="events", as_of=position)
            assert history_values(history) == expected_history(chat)

    # Access to a user and to the model.

    def user_and_state(self, name: str, position: int | None) -> tuple[User, State]:
        return self.store.user(name), self.states[name][-1 if position is None else position]

    def act_as(self, name: str) -> State:
        self.acting = name
        return self.states[name][-1]


@pytest.mark.slow
def test_each_of_three_users_has_exactly_the_data_that_their_own_commands_made(
    server: Server,
) -> None:
    Machine.server = server

    run_state_machine_as_test(
        Machine,
        settings=examples(12, stateful_step_count=30),
    )
