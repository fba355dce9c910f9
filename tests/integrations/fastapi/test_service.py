"""A service on FastAPI answers requests, retries and errors: a real server, a real client."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import httpx
import psycopg
import pytest
from fastapi import FastAPI, WebSocket
from sqlalchemy.exc import OperationalError

from eventstore import ConfigurationError, EventStore, NotFound, OutcomeUnknown
from eventstore.admin import health
from eventstore.integrations.fastapi import (
    eventstore_lifespan,
    health_routes,
    problem_handlers,
    rows_of,
)
from eventstore.schema.expected import REVISIONS
from tests.integrations.fastapi.service import Model, make_service
from tests.support.proxy import Proxy, url_through
from tests.support.web_server import run_app

PROBLEM = "application/problem+json"


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def url(database_url: str, model: Model) -> Iterator[str]:
    with run_app(make_service(database_url, model, pool_max_size=3)) as url:
        yield url


def client_of(name: str, url: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {name}"}, timeout=60)


@pytest.fixture
def alice(url: str) -> Iterator[httpx.Client]:
    with client_of("alice", url) as client:
        client.post("/chats/chat").raise_for_status()
        yield client


@pytest.fixture
def bob(url: str) -> Iterator[httpx.Client]:
    with client_of("bob", url) as client:
        yield client


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def say(client: httpx.Client, key: str, text: str = "Hi", route: str = "messages") -> Any:
    return client.post(f"/chats/chat/{route}", json={"text": text}, headers=keyed(key))


def test_a_request_that_comes_again_gets_the_recorded_answer(
    alice: httpx.Client, model: Model
) -> None:
    first, again = say(alice, "request-1"), say(alice, "request-1")

    assert first.json()["content"] == "Hello there"
    assert again.json() == first.json()
    assert model.requests == 1
    assert len(alice.get("/chats/chat/messages").json()) == 2


def test_retries_at_once_are_answered_once(alice: httpx.Client, model: Model) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: say(alice, "request-1").json(), range(8)))

    assert answers == answers[:1] * 8
    assert model.requests == 1


def test_a_key_in_quotation_marks_is_the_same_key(alice: httpx.Client) -> None:
    plain = alice.post("/tasks", json={"title": "Milk"}, headers=keyed("one"))
    quoted = alice.post("/tasks", json={"title": "Milk"}, headers=keyed('"one"'))

    assert plain.json() == quoted.json()
    assert len(alice.get("/tasks").json()) == 1


@pytest.mark.parametrize("key", [None, "", "x" * 300])
def test_a_request_without_a_usable_key_is_refused(alice: httpx.Client, key: str | None) -> None:
    headers = {} if key is None else keyed(key)

    refused = alice.post("/tasks", json={"title": "Milk"}, headers=headers)

    assert refused.status_code == 422
    assert alice.get("/tasks").json() == []


def test_users_see_their_own_rows_alone(alice: httpx.Client, bob: httpx.Client) -> None:
    task = alice.post("/tasks", json={"title": "Milk"}, headers=keyed("one")).json()

    assert alice.get("/tasks/titles").json() == ["Milk"]
    assert bob.get("/tasks/titles").json() == []
    assert bob.get(f"/tasks/{task['id']}").status_code == 404


def test_a_request_that_nobody_signed_is_refused(url: str) -> None:
    refused = httpx.get(f"{url}/tasks")

    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_routes_that_are_no_coroutines_do_the_same(alice: httpx.Client) -> None:
    for _ in range(2):
        alice.post("/sync/tasks", json={"title": "Milk"}, headers=keyed("one")).raise_for_status()
        say = alice.post("/sync/chats/chat/messages", json={"text": "Hi"}, headers=keyed("two"))

    assert say.json()["content"] == "Hello"
    assert alice.get("/sync/tasks/titles").json() == alice.get("/tasks/titles").json() == ["Milk"]


def test_an_error_of_the_store_becomes_a_problem(alice: httpx.Client) -> None:
    say(alice, "request-1", "Hi")
    absent = str(uuid4())

    answers = {
        "NotFound": alice.get(f"/tasks/{absent}"),
        "IdempotencyConflict": say(alice, "request-1", "Something else"),
        "BatchTooLarge": alice.post("/tasks/batch", params={"count": 1001}),
        "InvalidInput": alice.post("/tasks", json={"title": " "}, headers=keyed("one")),
    }

    statuses = {name: one.status_code for name, one in answers.items()}
    assert statuses == dict(zip(answers, (404, 409, 413, 422), strict=True))
    for name, answer in answers.items():
        assert answer.headers["Content-Type"] == PROBLEM
        assert answer.json()["type"] == f"urn:eventstore:{name}"
        assert answer.json()["status"] == answer.status_code
        assert "Retry-After" not in answer.headers
    assert absent in answers["NotFound"].json()["detail"]
    assert answers["InvalidInput"].json()["path"] == "title"


def test_a_problem_can_be_written_whatever_its_path_is_called(alice: httpx.Client) -> None:
    alice.post("/chats/chat")

    answer = alice.post(
        "/chats/chat/items",
        content=b'{"role": "user", "cut \\ud83e": NaN}',
        headers={"Content-Type": "application/json"},
    )

    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == PROBLEM
    assert answer.json()["path"] == "body.cut \\ud83e"


def test_a_database_that_is_away_is_a_503_that_says_when_to_come_again(
    database_url: str, proxy: Proxy, model: Model
) -> None:
    far = url_through(proxy, database_url)
    service = make_service(far, model, deadline_seconds=1)
    with run_app(service) as url, client_of("alice", url) as alice:
        assert alice.get("/ready").json() == {"status": "ok"}
        proxy.close()

        answers = [alice.get(path) for path in ("/tasks", "/tasks/titles", "/sync/tasks/titles")]
        ready, health = alice.get("/ready"), alice.get("/health")

    assert [one.status_code for one in (*answers, ready)] == [503] * 4
    assert [one.headers["Retry-After"] for one in (*answers, ready)] == ["2"] * 4
    assert "select" not in answers[1].text.lower()
    assert health.json() == {"status": "ok"}


def test_a_disk_that_is_full_is_told_of_a_session_too_and_not_to_be_tried_soon() -> None:
    app = FastAPI(exception_handlers=problem_handlers())

    @app.get("/rows")
    async def rows() -> None:
        raise OperationalError("insert into mine", {}, psycopg.errors.DiskFull("no space left"))

    with run_app(app) as url:
        answer = httpx.get(f"{url}/rows")

    assert answer.status_code == 507
    assert "Retry-After" not in answer.headers
    assert "insert" not in answer.text


@pytest.mark.parametrize("accepts", [True, False])
def test_an_error_is_a_response_until_a_web_socket_is_accepted(accepts: bool) -> None:
    app = FastAPI(exception_handlers=problem_handlers())

    @app.websocket("/chat")
    async def chat(socket: WebSocket) -> None:
        if accepts:
            await socket.accept()
        raise NotFound("conversation", "1")

    sent: list[MutableMapping[str, Any]] = []

    async def connect() -> None:
        async def receive() -> MutableMapping[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/chat", "headers": [], "query_string": b""}
        await app(scope | {"extensions": {"websocket.http.response": {}}}, receive, send)

    if accepts:
        with pytest.raises(RuntimeError) as raised:
            anyio.run(connect)
        assert isinstance(raised.value.__cause__, NotFound)
        assert [one["type"] for one in sent] == ["websocket.accept"]
    else:
        anyio.run(connect)
        assert sent[0]["type"] == "websocket.http.response.start"
        assert sent[0]["status"] == 404


def test_the_lifespan_gives_the_stores_their_observer(database_url: str) -> None:
    calls: list[str] = []
    lifespan = eventstore_lifespan(
        database_url, stores="both", observer=lambda call: calls.append(call.name)
    )
    app = FastAPI(lifespan=lifespan)

    async def ask() -> None:
        async with lifespan(app):
            await app.state.eventstore.user("alice").tasks.list()
            await anyio.to_thread.run_sync(app.state.sync_eventstore.user("bob").tasks.list)

    anyio.run(ask)
    assert calls.count("tasks.list") == 2


@pytest.mark.parametrize("key", ["request-1", None])
def test_an_unknown_outcome_invites_a_retry_only_under_a_key(key: str | None) -> None:
    app = FastAPI(exception_handlers=problem_handlers())

    @app.post("/tasks")
    async def create() -> None:
        raise OutcomeUnknown(key, [uuid4()])

    with run_app(app) as url:
        answer = httpx.post(f"{url}/tasks")

    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:eventstore:OutcomeUnknown"
    assert ("Retry-After" in answer.headers) == (key is not None)


def test_a_full_disk_is_a_507(alice: httpx.Client, admin: psycopg.Connection) -> None:
    admin.execute(
        "create function full_disk() returns trigger language plpgsql as "
        "$$ begin raise 'full' using errcode = '53100'; end $$"
    )
    admin.execute(
        "create trigger full_disk before insert on eventstore.event "
        "for each statement execute function full_disk()"
    )

    refused = alice.post("/tasks", json={"title": "Milk"}, headers=keyed("one"))

    assert (refused.status_code, refused.headers["Content-Type"]) == (507, PROBLEM)


def test_a_reached_quota_is_a_507_that_names_the_numbers(
    alice: httpx.Client, admin: psycopg.Connection
) -> None:
    alice.post("/tasks", json={"title": "Milk"}, headers=keyed("one"))
    admin.execute("update eventstore.user_log set quota = position")

    repeated = alice.post("/tasks", json={"title": "Milk"}, headers=keyed("one"))
    refused = alice.post("/tasks", json={"title": "Bread"}, headers=keyed("two"))

    assert repeated.is_success
    assert (refused.status_code, refused.headers["Content-Type"]) == (507, PROBLEM)
    assert refused.json()["type"] == "urn:eventstore:QuotaReached"
    assert "exceed their quota of 2;" in refused.json()["detail"]
    assert "Retry-After" not in refused.headers


def test_no_store_or_no_schema_is_not_ready(server: Any, model: Model) -> None:
    storeless = FastAPI(exception_handlers=problem_handlers())
    storeless.include_router(health_routes())
    empty = server.create_database("template0")
    try:
        with (
            run_app(storeless) as one,
            run_app(make_service(empty, model)) as two,
        ):
            assert httpx.get(f"{one}/ready").status_code == 500
            assert httpx.get(f"{two}/ready").status_code == 500
            assert httpx.get(f"{two}/health").status_code == 200
    finally:
        server.drop_database(empty)


def test_a_pending_migration_is_not_ready_and_a_server_without_writes_is(
    admin: psycopg.Connection, database_url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_app(make_service(database_url, model)) as url:
        monkeypatch.setattr(health, "REVISIONS", (REVISIONS[-1], "9999"))
        pending = httpx.get(f"{url}/ready")
        monkeypatch.undo()
        admin.execute(
            "do $$ begin execute format('alter database %I set default_transaction_read_only = on',"
            " current_database()); end $$"
        )
        admin.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where pid <> pg_backend_pid() and datname = current_database()"
        )
        read_only = httpx.get(f"{url}/ready")

    assert pending.status_code == 503
    assert "this release needs 9999; run `eventstore migrate`" in pending.json()["detail"]
    assert (read_only.status_code, read_only.json()) == (200, {"status": "read-only"})


def test_rows_need_an_annotation_with_a_dependency() -> None:
    with pytest.raises(ConfigurationError, match="has no dependency"):
        rows_of(str | None)


def test_what_utf8_lacks_and_long_numbers_reach_the_client(
    alice: httpx.Client, database_url: str
) -> None:
    with EventStore.connect(database_url) as store:
        user = store.user("alice")
        user.messages.post("chat", sender="assistant", content="lone \ud800")
        call = user.tool_calls.request("chat", name="price", arguments="{}")
        user.tool_calls.succeed(call, output=1.5)
        body = {"role": "user", "content": "x", "n": 10**30}
        user.messages.post("chat", body=body)

    said, called, _, big = alice.get("/chats/chat/messages").json()

    assert said["content"] == "lone \ufffd"
    assert called["tool_calls"][0]["output"] == 1.5
    assert big["body"]["n"] == 10**30


def test_the_views_are_in_openapi(url: str) -> None:
    schema = httpx.get(f"{url}/openapi.json").json()

    views = schema["components"]["schemas"]
    assert set(views["TaskView"]["properties"]) >= {"id", "title", "due_on", "version"}
    assert views["MessageView"]["properties"]["tool_calls"]["items"]["$ref"].endswith("CallView")
    parameters = schema["paths"]["/tasks"]["post"]["parameters"]
    assert {one["name"]: one["required"] for one in parameters}["Idempotency-Key"] is True
