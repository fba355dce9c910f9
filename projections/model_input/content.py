"""
Content as every format has it, texts and images, and values as a request can hold them.

Content that stands in the format of the request is given as it is. This is for the rest: what came
in another format, and what a tool returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from eventstore.events.fields import plain_text
from eventstore.events.items import is_part
from eventstore.events.json_codec import dumps, loads

__all__ = ["Image", "Piece", "as_object", "parts_of", "pieces_of", "plain", "shown", "text_of"]


class Image(NamedTuple):
    """
    An image.

    :ivar url: where it is, or its bytes as a `data:` URL.
    """

    url: str


type Piece = str | Image
"""What content consists of, whatever the format."""

_TEXTS = {"text", "input_text", "output_text"}
_LEFT_OUT = {"thinking", "redacted_thinking", "reasoning_text", "summary_text"}


def pieces_of(content: Any) -> list[Piece]:
    """
    Return the texts and images of content.

    :param content: text, a list of parts of any format, the result of an MCP tool, or another JSON
        value, which becomes its JSON text. A part that is neither text nor image is named in
        brackets, so that nobody sends its bytes as text.
    """
    match content:
        case None:
            return []
        case str():
            return [content]
        case list() if content and all(map(is_part, content)):
            return [piece for part in content for piece in _pieces_of_part(part)]
        case {"content": list() as parts} if all(map(is_part, parts)):
            return pieces_of(parts) if parts else []
        case _:
            return [dumps(content)]


def _pieces_of_part(part: Mapping[str, Any]) -> Iterator[Piece]:
    kind: str = part["type"]
    image = _image(part)
    match part:
        case {"text": str() as text} if kind in _TEXTS:
            yield text
        case {"refusal": str() as text} if kind == "refusal":
            yield text
        case {"resource": {"text": str() as text}} | {
            "source": {"type": "text", "data": str() as text}
        }:
            yield text
        case {"uri": str() as text} if kind == "resource_link":
            yield text
        case _ if image is not None:
            yield image
        # The calls and answers among the blocks are read from the item, and thoughts are the
        # model's own.
        case _ if kind in _LEFT_OUT or kind.endswith(("tool_use", "tool_result")):
            return
        case _:
            yield f"[{kind} left out]"


def _image(part: Mapping[str, Any]) -> Image | None:
    match part:
        case {"image_url": {"url": str() as url}} | {"image_url": str() as url}:
            return Image(url)
        case {"source": {"type": "url", "url": str() as url}, "type": "image"}:
            return Image(url)
        case {"source": {"media_type": str() as kind, "data": str() as data}, "type": "image"}:
            return Image(f"data:{kind};base64,{data}")
        case {"mimeType": str() as kind, "data": str() as data, "type": "image"}:
            return Image(f"data:{kind};base64,{data}")
        case _:
            return None


def shown(
    pieces: Sequence[Piece],
    text_part: Callable[[str], dict[str, Any]],
    image_part: Callable[[Image], dict[str, Any]],
) -> str | list[dict[str, Any]]:
    """
    Return content for a request: text if there is nothing else, or a list of parts.

    :param text_part: makes a part of a text, `image_part` one of an image.
    """
    if not any(isinstance(piece, Image) for piece in pieces):
        return text_of(pieces)
    return [image_part(piece) if isinstance(piece, Image) else text_part(piece) for piece in pieces]


def parts_of(
    content: Sequence[Any],
    own: Collection[str],
    text_part: Callable[[str], dict[str, Any]],
    image_part: Callable[[Image], dict[str, Any]] | None,
) -> list[dict[str, Any]]:
    """
    Return a list of parts as a format takes it: its own parts as they are, others converted.

    :param own: the types of parts that may stand there.
    :param image_part: None where a format has no place for images.
    """
    parts: list[dict[str, Any]] = []
    for part in content:
        if is_part(part) and part["type"] in own:
            parts.append(part)
            continue
        for piece in pieces_of([part]):
            if isinstance(piece, Image) and image_part is not None:
                parts.append(image_part(piece))
            elif text := text_of([piece]):
                parts.append(text_part(text))
    return parts


def text_of(pieces: Sequence[Piece]) -> str:
    """Return content as text, for where a format has no place for images."""
    return "\n".join("[image left out]" if isinstance(one, Image) else one for one in pieces)


def as_object(arguments: str) -> dict[str, Any]:
    """
    Return the arguments of a call as an object.

    :param arguments: the model's text; what is no JSON object becomes the value of `input`.
    """
    try:
        value = loads(arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"input": arguments}


def plain(value: Any) -> Any:
    """
    Return a JSON value as a request can hold it, as a copy.

    Lone surrogates, which UTF-8 lacks, and NUL, which endpoints choke on, become U+FFFD. A number
    that was written with more digits than a float has becomes the nearest float, or text if it is
    beyond the largest one.
    """
    match value:
        case str():
            return plain_text(value)
        case Mapping():
            return {plain_text(key): plain(one) for key, one in value.items()}
        case list() | tuple():
            return list(map(plain, value))
        case Decimal():
            number = float(value)
            return number if math.isfinite(number) else str(value)
        case _:
            return value
