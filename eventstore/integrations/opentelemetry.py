"""
Spans and metrics of the store's calls for OpenTelemetry; extra `telemetry`.

Names and attributes are those of OpenTelemetry's conventions for database clients, where these have
one. Nothing that users wrote is in them, no id of a user, and no text of an error, which may name a
value.
"""

from __future__ import annotations

import time

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import SpanKind, StatusCode, TracerProvider

from eventstore.database.driver.observer import CallReport
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
    `eventstore.retries`, the latter by the error that was met.
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
            },
        )
        if call.error is not None:
            span.set_status(StatusCode.ERROR)
        span.end(end)
