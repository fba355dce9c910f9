"""Spans and metrics of the store's calls, with OpenTelemetry's own SDK."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from eventstore import CallReport, DeliveryReport, EventStore, NotFound, RecordedEvent
from eventstore.integrations.opentelemetry import Telemetry
from tests.support.drivers import open_store
from tests.support.proxy import Proxy, url_through
from tests.support.tampering import disarm


class Recorded:
    """What was recorded since the store was opened."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        meters = MeterProvider([self._reader])
        self.telemetry = Telemetry(tracer_provider=self.tracers, meter_provider=meters)

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._exporter.get_finished_spans()}

    def metric(self, name: str) -> dict[str, Any]:
        """Return the points of a metric by the call's name."""
        return {point.attributes["db.operation.name"]: point for point in self._points(name)}

    def point(self, name: str) -> Any:
        """Return the only point of a metric."""
        (point,) = self._points(name)
        return point

    def _points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        assert data is not None
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


def gen_ai(span: ReadableSpan) -> dict[str, Any]:
    """Return what a span says in the names for generative AI."""
    attributes = span.attributes or {}
    return {name: value for name, value in attributes.items() if name.startswith("gen_ai.")}


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture(params=["sync", "async"])
def observed_store(
    request: pytest.FixtureRequest, database_url: str, recorded: Recorded
) -> Iterator[EventStore]:
    with open_store(request.param, database_url, observer=recorded.telemetry) as store:
        yield store


def test_each_call_has_a_span_and_is_measured(
    observed_store: EventStore, recorded: Recorded
) -> None:
    alice = observed_store.user("alice")
    chat = alice.conversations.start().id
    alice.messages.post(chat, sender="user", content="a secret")
    alice.history(chat)

    spans = recorded.spans()
    assert {"conversations.start", "messages.post", "user.history"} <= spans.keys()
    post = spans["messages.post"]
    assert post.kind is SpanKind.CLIENT
    assert post.attributes is not None
    assert post.attributes["db.system.name"] == "postgresql"
    assert post.attributes["eventstore.round_trips"] == 1
    assert post.attributes["eventstore.retries"] == 0
    assert post.start_time is not None
    assert post.end_time is not None
    seconds = (post.end_time - post.start_time) / 1e9
    assert recorded.metric("db.client.operation.duration")["messages.post"].sum == pytest.approx(
        seconds, abs=1e-3
    )
    assert recorded.metric("db.client.connection.wait_time")["messages.post"].sum < seconds
    assert recorded.metric("eventstore.round_trips")["messages.post"].value == 1
    assert "secret" not in "".join(span.to_json() for span in spans.values())
    assert "alice" not in "".join(span.to_json() for span in spans.values())


def test_a_span_is_a_child_of_the_callers(observed_store: EventStore, recorded: Recorded) -> None:
    tracer = recorded.tracers.get_tracer("service")
    alice = observed_store.user("alice")
    with tracer.start_as_current_span("request") as request, alice.transaction() as record:
        record.tasks.create("Milk")

    commit = recorded.spans()["transaction.commit"]
    assert commit.parent is not None
    assert commit.parent.span_id == request.get_span_context().span_id


def test_an_error_is_named_and_its_text_is_not_told(
    observed_store: EventStore, recorded: Recorded
) -> None:
    with pytest.raises(NotFound):
        observed_store.user("alice").history("a secret name")

    span = recorded.spans()["user.history"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "NotFound"
    assert "secret" not in span.to_json()
    point = recorded.metric("db.client.operation.duration")["user.history"]
    assert point.attributes["error.type"] == "NotFound"


def test_a_retry_is_counted_by_what_was_met(
    database_url: str, recorded: Recorded, proxy: Proxy
) -> None:
    url = url_through(proxy, database_url)
    with EventStore.connect(url, observer=recorded.telemetry) as store:
        alice = store.user("alice")
        alice.tasks.create("Milk")
        proxy.cut()
        alice.tasks.create("Bread")

    retries = recorded.metric("eventstore.retries")["tasks.create"]
    assert retries.value == 1
    assert retries.attributes["error.type"] == "ConnectionLost"
    assert recorded.metric("db.client.operation.duration")["tasks.create"].count == 2


def test_the_spans_of_a_tool_call_have_the_names_of_gen_ai(
    observed_store: EventStore, recorded: Recorded
) -> None:
    alice = observed_store.user("alice")
    chat = alice.conversations.start(key="a secret key").id
    call = alice.tool_calls.request(chat, name="add_task", arguments="a secret", call_id="call_1")
    alice.tool_calls.claim(call, seconds=60)
    alice.tool_calls.succeed(call, output="a secret")
    other = alice.tool_calls.request(chat, name="add_task", arguments="{}")
    alice.tool_calls.abandon(other, reason="a secret")

    spans = recorded.spans()
    named = {
        "gen_ai.tool.name": "add_task",
        "gen_ai.tool.call.id": "call_1",
        "gen_ai.conversation.id": str(chat),
    }
    executed = {**named, "gen_ai.operation.name": "execute_tool"}
    assert gen_ai(spans["tool_calls.claim"]) == named
    assert gen_ai(spans["tool_calls.succeed"]) == executed
    for name in ("tool_calls.request", "tool_calls.abandon"):
        assert gen_ai(spans[name]) == {**named, "gen_ai.tool.call.id": other.call_id}
    assert gen_ai(spans["conversations.start"]) == {}
    assert "secret" not in "".join(span.to_json() for span in spans.values())
    point = recorded.metric("db.client.operation.duration")["tool_calls.succeed"]
    assert not any(str(name).startswith("gen_ai.") for name in point.attributes)


def test_a_transaction_tells_of_a_tool_call_if_it_is_about_one(
    observed_store: EventStore, recorded: Recorded
) -> None:
    alice = observed_store.user("alice")
    chat = alice.conversations.start().id
    with alice.transaction() as record:
        call = record.tool_calls.request(chat, name="add_task", arguments="{}", call_id="call_1")
        record.tasks.create("Milk", caused_by=call)
        record.tool_calls.fail(call, error="no milk")
    one = gen_ai(recorded.spans()["transaction.commit"])
    with alice.transaction() as record:
        for name in ("one", "two"):
            record.tool_calls.request(chat, name=name, arguments="{}")
    two = gen_ai(recorded.spans()["transaction.commit"])

    assert one == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "add_task",
        "gen_ai.tool.call.id": "call_1",
        "gen_ai.conversation.id": str(chat),
    }
    assert two == {}


def test_what_a_turn_records_of_a_tool_call_is_told(
    observed_store: EventStore, recorded: Recorded
) -> None:
    alice = observed_store.user("alice")
    alice.conversations.start(key="chat")
    function = {"name": "add_task", "arguments": "{}"}
    with alice.turn("chat", key="request", items=[]) as turn:
        turn.extend([{"role": "assistant", "tool_calls": [{"id": "c1", "function": function}]}])
        (call,) = turn.pending_calls
        turn.succeed(call, output="added")

    attributes = gen_ai(recorded.spans()["turn.succeed"])
    assert attributes["gen_ai.operation.name"] == "execute_tool"
    assert attributes["gen_ai.tool.name"] == "add_task"
    assert attributes["gen_ai.tool.call.id"] == "c1"


def test_a_feed_measures_its_lag_its_events_and_its_failures(
    observed_store: EventStore, recorded: Recorded, admin: psycopg.Connection
) -> None:
    def handler(event: RecordedEvent) -> None:
        if event.user_id == "bob" and event.position == 2:
            raise ValueError("a secret")

    for name in ("alice", "bob", "bob"):
        observed_store.user(name).tasks.create("Milk")
    disarm(admin)
    admin.execute("update eventstore.event set recorded_at = recorded_at - interval '1 hour'")
    observed_store.subscribe("mail", handler, attempts=1).catch_up()

    of_feed = {"eventstore.feed.name": "mail"}
    lag = recorded.point("eventstore.feed.lag")
    assert (lag.attributes, lag.count) == (of_feed, 2)
    assert 3_600 < lag.min <= lag.max < 3_700
    events = recorded.point("eventstore.feed.events")
    assert (events.attributes, events.value) == (of_feed, 2)
    failures = recorded.point("eventstore.feed.failures")
    assert failures.value == 1
    assert failures.attributes == {
        **of_feed,
        "error.type": "ValueError",
        "eventstore.feed.parked": True,
    }


def test_an_observer_that_fails_ends_no_feed(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __call__(self, call: CallReport) -> None: ...

        def delivered(self, batch: DeliveryReport) -> None:
            raise RuntimeError("no collector")

    with EventStore.connect(database_url, observer=Broken()) as store:
        store.user("alice").tasks.create("Milk")
        assert store.subscribe("mail", lambda _: None).catch_up() == 1

    assert [one.message for one in caplog.records if one.exc_info] == [
        "the observer of feeds raised an error"
    ]


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_what_connect_asks_the_doctor_has_the_name_of_the_call(
    database_url: str, driver: str
) -> None:
    calls: list[CallReport] = []
    with open_store(driver, database_url, observer=calls.append) as store:
        store.doctor()

    assert [one.name for one in calls] == ["store.doctor", "store.doctor"]


def test_an_observer_that_fails_ends_no_call(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: CallReport) -> None:
        raise RuntimeError("no collector")

    with EventStore.connect(database_url, observer=broken) as store:
        made = store.user("alice").tasks.create("Milk")
        assert store.user("alice").tasks.get(made.id) == made

    failures = [one for one in caplog.records if one.exc_info]
    assert failures
    assert {(one.name, one.levelno) for one in failures} == {("eventstore", logging.ERROR)}
