"""Spans and metrics of the store's calls, with OpenTelemetry's own SDK."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from eventstore import CallReport, EventStore, NotFound
from eventstore.integrations.opentelemetry import Telemetry
from tests.support.drivers import open_store
from tests.support.proxy import Proxy, url_through


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
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            str(point.attributes["db.operation.name"]): point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
            if point.attributes
        }


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
