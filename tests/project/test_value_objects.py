"""Value objects are frozen dataclasses to a type checker, and quick to make."""

from __future__ import annotations

from eventstore.value_objects import value_object


@value_object(frozen=True, slots=True)
class _Place:
    stream: str
    version: int = 1


def test_a_value_object_is_equal_by_its_values_and_a_key_of_sets() -> None:
    assert _Place("tasks") == _Place("tasks", 1) != _Place("tasks", 2)
    assert len({_Place("tasks"), _Place("tasks"), _Place("chats")}) == 2


def test_only_a_type_checker_refuses_an_assignment() -> None:
    place = _Place("tasks")
    # mypy would call this comment unused if it took the class for one that is not frozen.
    place.version = 2  # type: ignore[misc]
    assert place.version == 2
    assert "__setattr__" not in vars(_Place)  # with it each field is set by a call
