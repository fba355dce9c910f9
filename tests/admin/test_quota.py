"""A user's log holds no more events than an administrator allows; the rest goes on as before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import psycopg
import pytest

from eventstore import (
    AccessDenied,
    EventStore,
    InvalidInput,
    NewEvent,
    NotFound,
    QuotaReached,
    TaskCreated,
    User,
)
from eventstore.imports.conversation import ImportedConversation, ImportedMessage
from tests.support.logins import make_logins
from tests.support.server import Server

SET_HIS_OWN = "update eventstore.user_log set quota = null"
INSERT_HIS_OWN = (
    "insert into eventstore.user_log (user_id, position, hash, recorded_at, quota)"
    " values ('new', 0, '', now(), null)"
)


def create_two(user: User, _: UUID) -> None:
    with user.transaction() as record:
        record.tasks.create("Bread")
        record.tasks.create("Milk")


def append_raw(user: User, _: UUID) -> None:
    user.append([NewEvent(stream_id=uuid4(), data=TaskCreated(title="Bread"))])


WRITES: dict[str, Callable[[User, UUID], object]] = {
    "a new task": lambda user, _: user.tasks.create("Bread"),
    "an update": lambda user, task: user.tasks.update(task, title="Oat milk"),
    "a decision": lambda user, task: user.tasks.complete(task),
    "a keyed command": lambda user, _: user.keyed("new").tasks.create("Bread"),
    "a transaction": create_two,
    "a raw append": append_raw,
}


@pytest.fixture
def task(store: EventStore, alice: User) -> UUID:
    """The only task of alice's, whose log may hold no further event."""
    task = alice.tasks.create("Milk").id
    store.set_quota("alice", 1)
    return task


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_an_append_over_the_quota_writes_nothing_and_reads_go_on(
    store: EventStore, alice: User, task: UUID, write: Callable[[User, UUID], object]
) -> None:
    with pytest.raises(QuotaReached, match=r"holds 1 events, .* of 1; .*`eventstore quota`"):
        write(alice, task)

    assert [one.title for one in alice.tasks.list()] == ["Milk"]
    assert [event.position for event in alice.events()] == [1]
    assert store.verify().ok
    store.user("bob").tasks.create("is another's")
    store.set_quota("alice", 3)
    write(alice, task)
    assert len(alice.events()) in {2, 3}


def test_the_error_has_the_numbers(store: EventStore, alice: User, task: UUID) -> None:
    store.set_quota("alice", 2)

    with pytest.raises(QuotaReached) as refused:
        create_two(alice, task)

    assert (refused.value.events, refused.value.adding, refused.value.limit) == (1, 2, 2)


def test_an_append_that_is_sent_again_is_answered_at_the_quota(
    store: EventStore, alice: User, task: UUID
) -> None:
    store.set_quota("alice", 2)
    first = alice.keyed("one").tasks.create("Bread")

    assert alice.keyed("one").tasks.create("Bread") == first
    assert len(alice.events()) == 2


def test_what_is_there_under_its_key_is_answered_at_the_quota(
    store: EventStore, alice: User, task: UUID
) -> None:
    store.set_quota("alice", 100)
    chat = alice.conversations.start(key="chat")
    call = alice.tool_calls.request("chat", name="f", arguments="{}")
    outcome = alice.tool_calls.succeed(call, output="done")
    question = {"role": "user", "content": "Hi"}
    with alice.turn("chat", key="request", items=[question]) as turn:
        turn.end([{"role": "assistant", "content": "Hello"}])
    store.set_quota("alice", 1)

    with alice.turn("chat", key="request", items=[question]) as repeated:
        assert repeated.ended
    assert alice.conversations.start(key="chat").id == chat.id
    assert alice.tool_calls.succeed(call, output="done") == outcome
    with pytest.raises(QuotaReached):
        alice.messages.post("chat", sender="user", content="more")


def test_content_can_be_erased_at_the_quota(store: EventStore, alice: User, task: UUID) -> None:
    erased = store.erase("alice", ordered_by="alice")

    assert (erased.events, erased.position) == (1, 2)
    assert store.verify().ok
    assert store.quota("alice").events == 2


def test_an_import_over_the_quota_is_written_whole_or_not_at_all(
    store: EventStore, alice: User, task: UUID
) -> None:
    store.set_quota("alice", 1_500)
    said = [
        ImportedMessage("user", {"role": "user", "content": str(number)}) for number in range(1_600)
    ]
    long, short = (ImportedConversation(str(n), said[:n]) for n in (1_600, 2))

    done = store.import_conversations([("alice", long), ("alice", short)])
    again = store.import_conversations([("alice", short)])

    assert [one.reason for one in done.failures] == [
        "would exceed the user's quota of 1500 events; raise it, see `quota`"
    ]
    assert (done.imported, again.skipped) == (1, 1)
    assert len(alice.events()) == 4
    assert store.verify().ok


def test_writers_at_once_do_not_exceed_the_quota(
    store: EventStore, alice: User, task: UUID, database_url: str
) -> None:
    store.set_quota("alice", 3)

    def create(number: int) -> bool:
        try:
            writer.user("alice").tasks.create(str(number))
        except QuotaReached:
            return False
        return True

    with EventStore.connect(database_url) as writer, ThreadPoolExecutor(4) as threads:
        written = list(threads.map(create, range(8)))

    assert sum(written) == 2
    assert len(alice.events()) == 3


def test_a_quota_is_set_shown_and_lifted(store: EventStore, alice: User, task: UUID) -> None:
    before = store.quota("alice")
    at_quota = store.status().users_at_quota
    lifted = store.set_quota("alice", None)
    alice.tasks.create("Bread")

    assert (before.user_id, before.events, before.limit, at_quota) == ("alice", 1, 1, 1)
    assert (lifted.events, lifted.limit) == (1, None)
    assert store.status().users_at_quota == 0
    with pytest.raises(NotFound, match="user bob not found"):
        store.set_quota("bob", 1)
    with pytest.raises(InvalidInput, match="limit: -1; give 0 to"):
        store.set_quota("alice", -1)


def test_the_default_of_the_column_is_the_quota_of_new_users(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    alice.tasks.create("was here before")
    admin.execute("alter table eventstore.user_log alter column quota set default 1")
    bob = store.user("bob")
    bob.tasks.create("Milk")

    with pytest.raises(QuotaReached):
        bob.tasks.create("Bread")
    with pytest.raises(QuotaReached):
        create_two(store.user("carol"), uuid4())
    assert store.quota("alice").limit is None
    assert [one for one in store.doctor() if one.location == "eventstore.user_log"] == []


def test_a_service_cannot_raise_a_quota(
    store: EventStore, alice: User, task: UUID, server: Server, database_url: str
) -> None:
    login = make_logins(server, database_url).service

    with EventStore.connect(login) as service:
        with pytest.raises(AccessDenied):
            service.set_quota("alice", None)
        with pytest.raises(AccessDenied):
            service.quota("alice")
    for user_id, attack in (("alice", SET_HIS_OWN), ("new", INSERT_HIS_OWN)):
        with psycopg.connect(server.direct(login)) as session:
            session.execute(
                "select set_config('role', 'eventstore_app', true),"
                " set_config('eventstore.user_id', %s, true)",
                (user_id,),
            )
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
                session.execute(attack)
    assert store.quota("alice").limit == 1


def test_an_operator_sets_quotas_and_moves_no_head(
    store: EventStore, alice: User, task: UUID, server: Server, database_url: str
) -> None:
    login = make_logins(server, database_url).operations

    with EventStore.connect(login) as operations:
        assert operations.set_quota("alice", 5).limit == 5
    with psycopg.connect(server.direct(login)) as session:
        session.execute("set local role eventstore_operator")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
            session.execute("update eventstore.user_log set position = 7")
