"""The public API: sorted lists of names that exist, with the same methods in sync and async."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType
from typing import Any, cast

import pytest

import eventstore
import projections
from eventstore import AsyncEventStore, AsyncUser, EventRegistry, EventStore, EventStoreError, User
from eventstore.store.commands.conversations import AsyncConversations, Conversations
from eventstore.store.commands.messages import AsyncMessages, Messages
from eventstore.store.commands.tasks import AsyncTasks, Tasks
from eventstore.store.commands.tool_calls import AsyncToolCalls, ToolCalls
from eventstore.store.context import UserContext
from eventstore.store.units.transaction import AsyncTransaction, Transaction
from projections import Projections

PAIRS: list[tuple[type[Any], type[Any]]] = [
    (EventStore, AsyncEventStore),
    (User, AsyncUser),
    (Tasks, AsyncTasks),
    (Conversations, AsyncConversations),
    (Messages, AsyncMessages),
    (ToolCalls, AsyncToolCalls),
]
each_pair = pytest.mark.parametrize(("sync", "other"), PAIRS, ids=lambda kind: kind.__name__)


def public_names(kind: type[Any]) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


def function_of(kind: type[Any], name: str) -> Callable[..., Any]:
    """Return the function behind a method or property, or the plan that a method runs."""
    member = inspect.getattr_static(kind, name)
    for behind in ("__wrapped__", "__func__", "fget"):
        member = getattr(member, behind, member)
    return cast("Callable[..., Any]", member)


def modules(package: ModuleType) -> list[ModuleType]:
    found = [one.name for one in walk_packages(package.__path__, f"{package.__name__}.")]
    return [package, *(import_module(name) for name in found if not name.endswith("__main__"))]


def sort_names(names: list[str]) -> list[str]:
    """Sort as the linter does: CONSTANTS, then Classes, then functions."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


@pytest.mark.parametrize(
    "module", [*modules(eventstore), *modules(projections)], ids=lambda module: module.__name__
)
def test_the_all_of_every_module_is_sorted_and_its_names_exist(module: ModuleType) -> None:
    names: list[str] = getattr(module, "__all__", [])

    assert names == sort_names(list(set(names)))
    assert [name for name in names if not hasattr(module, name)] == []


def test_the_package_exports_exactly_the_names_in_its_all() -> None:
    assert dir(eventstore) == eventstore.__all__ == sorted(eventstore._HOME_OF)
    assert [
        name for name in eventstore.__all__ if not inspect.isclass(getattr(eventstore, name))
    ] == ["migration_engine", "read_anchor", "write_anchor"]
    with pytest.raises(AttributeError, match="has no attribute 'EventShop'"):
        _ = eventstore.EventShop


def test_every_public_class_has_a_docstring() -> None:
    public = [
        getattr(package, name) for package in (eventstore, projections) for name in package.__all__
    ]

    assert [one for one in public if inspect.isclass(one) and not one.__doc__] == []


@each_pair
def test_sync_and_async_have_the_same_public_names(sync: type[Any], other: type[Any]) -> None:
    assert public_names(sync) == public_names(other) != []


@each_pair
def test_sync_and_async_methods_have_the_same_parameters(sync: type[Any], other: type[Any]) -> None:
    def parameters(kind: type[Any]) -> dict[str, str]:
        return {
            name: str(inspect.signature(function_of(kind, name)).replace(return_annotation=None))
            for name in public_names(kind)
        }

    assert parameters(sync) == parameters(other)


@each_pair
def test_sync_and_async_methods_have_the_same_docstrings(sync: type[Any], other: type[Any]) -> None:
    def docstrings(kind: type[Any]) -> dict[str, str | None]:
        return {name: inspect.getdoc(function_of(kind, name)) for name in public_names(kind)}

    assert docstrings(sync) == docstrings(other)
    assert [name for name, text in docstrings(sync).items() if not text] == []


def test_a_method_of_a_user_has_its_name_and_docstring() -> None:
    for user in users():
        assert user.tasks.create.__name__ == "create"
        assert (inspect.getdoc(user.tasks.create) or "").startswith("Create a task")


def test_every_async_method_is_a_coroutine_function_and_no_sync_method_is() -> None:
    # These members send nothing to the database, so they are not awaited.
    plain = {
        "annotated",
        "commands",
        "draft",
        "keyed",
        "session",
        "transaction",
        "turn",
        "user_id",
        "within",
    }
    sync, other = users()

    for name in ("", "tasks", "conversations", "messages", "tool_calls", "turns"):
        one, two = (getattr(user, name) if name else user for user in (sync, other))
        methods = {*public_names(type(one))} - plain
        assert [m for m in methods if inspect.iscoroutinefunction(getattr(one, m))] == []
        assert [m for m in methods if not inspect.iscoroutinefunction(getattr(two, m))] == []


def test_sync_and_async_users_have_the_same_parts() -> None:
    sync, other = users()

    assert [name for name in vars(sync) if not name.startswith("_")] == [
        name for name in vars(other) if not name.startswith("_")
    ]
    assert {type(part) for part in vars(sync).values()} >= {first for first, _ in PAIRS[2:]}
    assert {type(part) for part in vars(other).values()} >= {second for _, second in PAIRS[2:]}


def test_sync_and_async_transactions_have_the_same_commands() -> None:
    sync, other = users()

    one, two = sync.transaction(), other.transaction()

    assert (type(one), type(two)) == (Transaction, AsyncTransaction)
    assert type(one._commands) is type(two._commands)


def users() -> tuple[User, AsyncUser]:
    """Return a sync and an async user without a database."""
    nothing = cast("Any", None)
    context = UserContext("alice", Projections(), EventRegistry())
    return User(nothing, nothing, context), AsyncUser(nothing, nothing, context)


COMMANDS = {
    "tasks": ("create", "update", "move", "complete", "reopen", "delete", "restore"),
    "conversations": ("start", "rename", "archive", "reopen", "delete", "restore", "rewind"),
    "messages": ("post", "extend", "replace_tail", "clear", "edit", "retract"),
    "tool_calls": ("request", "claim", "succeed", "fail", "abandon"),
}


@pytest.mark.parametrize("part", COMMANDS)
def test_a_command_has_the_same_parameters_in_a_transaction_except_the_key(part: str) -> None:
    sync, _ = users()
    outside, inside = getattr(sync, part), getattr(sync.transaction()._commands, part)

    def parameters(function: Callable[..., Any]) -> list[str]:
        skipped = ("self", "idempotency_key")
        found = inspect.signature(function).parameters.values()
        return [str(one) for one in found if one.name not in skipped]

    assert {name: parameters(getattr(inside, name)) for name in COMMANDS[part]} == {
        name: parameters(getattr(outside, name)) for name in COMMANDS[part]
    }
    assert {*public_names(type(inside))} == {*COMMANDS[part]}


def error_classes(kind: type[EventStoreError] = EventStoreError) -> list[type[EventStoreError]]:
    return [kind, *(one for below in kind.__subclasses__() for one in error_classes(below))]


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_an_error_is_pickled_and_unpickled_unchanged(kind: type[EventStoreError]) -> None:
    error = kind.__new__(kind, "what happened")
    error.position = 7  # type: ignore[attr-defined]  # any attribute

    again = pickle.loads(pickle.dumps(error))

    assert (type(again), again.args, vars(again)) == (kind, error.args, vars(error))
