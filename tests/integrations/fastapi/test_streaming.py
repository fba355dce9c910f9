"""A streamed answer holds no connection while the model speaks, and ends truthfully."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import psycopg
import pytest

from eventstore import EventStore
from projections.models.turn import TurnView
from tests.integrations.fastapi.service import Model, make_service
from tests.support.waiting import until
from tests.support.web_server import run_app

ALICE = {"Authorization": "Bearer alice"}


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def url(database_url: str, model: Model) -> Iterator[str]:
    # A route that reads rows and then begins a turn needs two; a third one there is not.
    with run_app(make_service(database_url, model, pool_max_size=2)) as url:
        httpx.post(f"{url}/chats/chat", headers=ALICE).raise_for_status()
        yield url
        model.go_on.set()


def stream(client: httpx.Client, key: str) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    return client.post("/chats/chat/stream", json={"text": "Hi"}, headers=headers)


def turn_of(database_url: str) -> TurnView:
    with EventStore.connect(database_url) as store:
        (turn,) = store.user("alice").turns.list("chat")
        return turn


@pytest.fixture
def alice(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers=ALICE, timeout=60) as client:
        yield client


def test_a_streamed_answer_is_recorded_and_given_again(
    alice: httpx.Client, model: Model, database_url: str
) -> None:
    assert stream(alice, "one").text == "Hello there"
    assert stream(alice, "one").text == "Hello there, 0 tasks"

    assert model.requests == 1
    assert turn_of(database_url).status == "completed"


def test_a_turn_that_was_not_ended_ends_with_its_answer(
    alice: httpx.Client, url: str, database_url: str
) -> None:
    headers = {"Idempotency-Key": "one"}
    response = alice.post("/chats/chat/stream?ends=false", json={"text": "Hi"}, headers=headers)

    assert response.text == "Hello there"
    assert turn_of(database_url).status == "completed"


def test_no_connection_is_held_while_the_model_speaks(
    alice: httpx.Client, url: str, model: Model, admin: psycopg.Connection
) -> None:
    def held() -> set[int]:
        found = admin.execute(
            "select pid from pg_stat_activity where datname = current_database() "
            "and pid <> pg_backend_pid() and state <> 'idle'"
        ).fetchall()
        return {pid for (pid,) in found}

    # A test before this one may have left a connection behind, which the server takes for open.
    others_held = held()
    model.paused = True
    headers = {**ALICE, "Idempotency-Key": "one"}
    with httpx.stream(
        "POST", f"{url}/chats/chat/stream", json={"text": "Hi"}, headers=headers, timeout=60
    ) as growing:
        assert model.speaking.wait(60)
        until(lambda: not held() - others_held)  # the pool may still be opening connections
        others = [alice.get("/tasks/titles").status_code for _ in range(3)]
        refused = stream(alice, "two")
        model.go_on.set()
        received = growing.read()

    assert others == [200] * 3
    assert (refused.status_code, refused.headers["Retry-After"]) == (409, "2")
    assert refused.json()["type"] == "urn:eventstore:ConversationBusy"
    assert received == b"Hello there"


def test_a_client_that_goes_away_leaves_a_failed_turn_that_its_key_continues(
    alice: httpx.Client, url: str, model: Model, database_url: str
) -> None:
    model.paused = True
    headers = {**ALICE, "Idempotency-Key": "one"}
    with httpx.stream(
        "POST", f"{url}/chats/chat/stream", json={"text": "Hi"}, headers=headers, timeout=60
    ):
        assert model.speaking.wait(60)
    until(lambda: turn_of(database_url).status == "failed")
    model.paused = False

    again = stream(alice, "one")

    assert again.text == "Hello there"
    turn = turn_of(database_url)
    assert (turn.status, turn.attempt) == ("completed", 2)


def test_a_session_refuses_to_be_used_once_the_response_has_begun(alice: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        alice.get("/tasks/late")

    assert [alice.get("/tasks/titles").status_code for _ in range(2)] == [200, 200]
