"""
Dataclasses that are made once per event, row or statement.

`@value_object(frozen=True, slots=True)` is `@dataclass(frozen=True, slots=True)` to a type checker.
At run time nothing refuses an assignment: a frozen dataclass sets each field by a call, and with
twelve of them that takes 1.4 µs where this takes 0.2, a fifth of the time of a long history. Its
subclasses are made by it too, because Python lets none be frozen whose base is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

__all__ = ["value_object"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value_object
else:
    from dataclasses import dataclass

    def value_object(*, frozen: bool, **options: bool) -> Callable[[type], type]:
        """Return the decorator; as with a frozen dataclass, equal values have one hash."""
        return dataclass(unsafe_hash=frozen, **options)
