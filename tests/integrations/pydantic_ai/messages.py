"""Messages for tests of conversations."""

from __future__ import annotations

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart

__all__ = ["spoken"]


def spoken(*texts: str) -> list[ModelMessage]:
    """Questions and answers in turn."""
    return [
        ModelResponse(parts=[TextPart(one)])
        if number % 2
        else ModelRequest(parts=[UserPromptPart(one)])
        for number, one in enumerate(texts)
    ]
