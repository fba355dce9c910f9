"""A model of a turn that is continued: it asks for the calls that the turn left open once more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from agents import Model, ModelResponse, Usage
from agents.items import TResponseStreamEvent
from openai.types.responses import Response, ResponseCompletedEvent, ResponseFunctionToolCall

from projections.models.tool_call import ToolCallView

__all__ = ["ContinuedModel"]


class ContinuedModel(Model):
    """
    A model whose first response is the calls that were recorded and have no outcome.

    Asked anew, a model would give its calls other ids, and who knows a call by its id, like an MCP
    server, would run it a second time.
    """

    def __init__(self, model: Model, calls: Sequence[ToolCallView]) -> None:
        self._model = model
        self._open = [
            ResponseFunctionToolCall(
                type="function_call", call_id=one.call_id, name=one.name, arguments=one.arguments
            )
            for one in calls
        ]

    async def get_response(self, *args: Any, **options: Any) -> ModelResponse:
        """Return the calls that were left open, once, and then what the model says."""
        if not self._open:
            return await self._model.get_response(*args, **options)
        left, self._open = self._open, []
        return ModelResponse(output=[*left], usage=Usage(), response_id=None)

    async def stream_response(
        self, *args: Any, **options: Any
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Stream the calls that were left open, once, and then what the model says."""
        if not self._open:
            async for event in self._model.stream_response(*args, **options):
                yield event
            return
        left, self._open = self._open, []
        response = Response(
            id="continued",
            created_at=0,
            model="continued",
            object="response",
            output=[*left],
            tool_choice="auto",
            tools=[],
            parallel_tool_calls=True,
        )
        yield ResponseCompletedEvent(
            response=response, sequence_number=0, type="response.completed"
        )
