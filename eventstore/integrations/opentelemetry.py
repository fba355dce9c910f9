"""
Spans and metrics of the store's calls for OpenTelemetry; extra `telemetry`.

Names and attributes are those of OpenTelemetry's conventions for database clients and for
generative AI, where these have one. Nothing that users wrote is in them, no id of a user, and no
text of an error, which may name a value.
"""

from __future__ import annotations

import time

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import SpanKind, StatusCode, TracerProvider

from eventstore.database.driver.observer import CallReport, DeliveryReport
from eventstore.database.plan import AboutToolCall
from eventstore.version import VERSION

__all__ = ["Telemetry"]

_NAME = "eventstore"


class Telemetry:
    """
    An observer that makes a span of each call, and measures it.

    ::

        store = EventStore.connect(observer=Telemetry())

    The span is a child of the caller's current span. The metrics are `db.client.operation.duration`
    and `db.client.connection.wait_time`, in seconds, and the counters `eventstore.round_trips` and
    `eventstore.retries`, the latter by the error that was met. Workers of feeds add the histogram
    `eventstore.feed.lag` and the counters `eventstore.feed.events` and `eventstore.feed.failures`.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """
        Prepare spans and metrics.

        :param tracer_provider: None takes the global one, and so does `meter_provider`.
        """
        self._tracer = trace.get_tracer(_NAME, VERSION, tracer_provider)
        meter = metrics.get_meter(_NAME, VERSION, meter_provider)
        self._duration = meter.create_histogram(
            "db.client.operation.duration", "s", "How long calls of the store took"
        )
        self._wait = meter.create_histogram(
            "db.client.connection.wait_time", "s", "How long calls waited for a connection"
        )
        self._round_trips = meter.create_counter(
            "eventstore.round_trips", "{round_trip}", "Pipelines that were sent to the server"
        )
        self._retries = meter.create_counter(
            "eventstore.retries", "{retry}", "Attempts that were followed by another one"
        )
        self._lag = meter.create_histogram(
            "eventstore.feed.lag", "s", "How old the oldest event of a batch was that a feed took"
        )
        self._delivered = meter.create_counter(
            "eventstore.feed.events", "{event}", "Events that a feed delivered"
        )
        self._failures = meter.create_counter(
            "eventstore.feed.failures", "{failure}", "Events at which the handler of a feed failed"
        )

    def __call__(self, call: CallReport) -> None:
        """Record a call that has just ended."""
        attributes = {"db.system.name": "postgresql", "db.operation.name": call.name}
        for met in call.retries:
            self._retries.add(1, {**attributes, "error.type": type(met).__name__})
        if call.error is not None:
            attributes["error.type"] = type(call.error).__name__
        self._duration.record(call.seconds, attributes)
        self._wait.record(call.pool_seconds, attributes)
        self._round_trips.add(call.round_trips, attributes)
        end = time.time_ns()
        span = self._tracer.start_span(
            call.name,
            kind=SpanKind.CLIENT,
            start_time=end - int(call.seconds * 1e9),
            attributes={
                **attributes,
                "eventstore.round_trips": call.round_trips,
                "eventstore.retries": len(call.retries),
                "eventstore.pool_seconds": call.pool_seconds,
                **({} if call.tool_call is None else _of_tool_call(call.tool_call, call.error)),
            },
        )
        if call.error is not None:
            span.set_status(StatusCode.ERROR)
        span.end(end)

    def delivered(self, batch: DeliveryReport) -> None:
        """Record what a worker of a feed has done with a batch."""
        attributes = {"eventstore.feed.name": batch.feed}
        self._lag.record(batch.lag_seconds, attributes)
        self._delivered.add(batch.events, attributes)
        if batch.error is not None:
            failed = {"error.type": type(batch.error).__name__}
            parked = {"eventstore.feed.parked": batch.parked}
            self._failures.add(1, {**attributes, **failed, **parked})


def _of_tool_call(call: AboutToolCall, error: BaseException | None) -> dict[str, str]:
    """Return what a span says of a tool call: names and ids, and that it was executed."""
    attributes = {
        "gen_ai.tool.call.id": call.call_id,
        "gen_ai.conversation.id": str(call.conversation_id),
    }
    if call.name is not None:
        attributes["gen_ai.tool.name"] = call.name
    if call.ended and error is None:
        # Of the outcome alone, or who counts the tools that ran would count their requests too.
        attributes["gen_ai.operation.name"] = "execute_tool"
    return attributes
