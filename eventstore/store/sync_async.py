"""
Sync and async methods from one definition.

What a method does is written once, as a plan (see `database.plan`) or as a command (see
`units`). The functions below make a method of it that runs at once, or one that is awaited,
with the same name, parameters and docstring::

    class Tasks(SyncFacade[TaskQueries]):
        _commands = TaskCommands

        create = sync_command(TaskCommands.create)
        get = sync_method(TaskQueries.get)

`settled` is how async code waits for an append that must have ended before a cancellation goes on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from inspect import signature
from typing import Any, ClassVar, Concatenate

from eventstore.database.driver.async_driver import AsyncDriver
from eventstore.database.driver.sync_driver import Driver
from eventstore.database.plan import Plan
from eventstore.store.units.commands import Commands, run_command
from eventstore.store.units.outcome import Handle

__all__ = [
    "AsyncFacade",
    "SyncFacade",
    "async_command",
    "async_method",
    "block_method",
    "settled",
    "sync_command",
    "sync_method",
]

_ROOMS = {
    "": "store",  # of a function, as an import of conversations is
    "AdminPlans": "store",
    "FeedAdmin": "store",
    "UserPlans": "user",
    "TurnPlans": "turn",
    "DraftPlans": "draft",
}
"""The names of what is no list of things: for the others see `_call_name`."""

type Coro[T] = Coroutine[Any, Any, T]


class SyncFacade[P]:
    """
    An object whose methods run plans on the sync driver.

    :cvar _commands: the class that its commands belong to.
    """

    _commands: ClassVar[type[Commands]] = Commands

    def __init__(self, driver: Driver, plans: P) -> None:
        self._driver = driver
        self._plans = plans


class AsyncFacade[P]:
    """
    An object whose methods run plans on the async driver.

    :cvar _commands: the class that its commands belong to.
    """

    _commands: ClassVar[type[Commands]] = Commands

    def __init__(self, driver: AsyncDriver, plans: P) -> None:
        self._driver = driver
        self._plans = plans


def sync_method[**P, R](
    definition: Callable[Concatenate[Any, P], Plan[R]], *, driver: str = "_driver"
) -> Callable[Concatenate[Any, P], R]:
    """
    Return the method that runs a plan to its result.

    :param definition: a method of the class whose instance the facade has as `_plans`.
    :param driver: the facade's attribute with the driver that runs it.
    """
    name = _call_name(definition)

    # `P` gives type checkers the plan's own parameters; `Any` stands for its `self`, which is not
    # the facade's.
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = getattr(self, driver).run(definition(self._plans, *args, **kwargs), name)
        return result

    return _named(method, definition)


def async_method[**P, R](
    definition: Callable[Concatenate[Any, P], Plan[R]], *, driver: str = "_driver"
) -> Callable[Concatenate[Any, P], Coro[R]]:
    """
    Return the coroutine method that runs a plan to its result.

    :param definition: a method of the class whose instance the facade has as `_plans`.
    :param driver: the facade's attribute with the driver that runs it.
    """
    name = _call_name(definition)

    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        # Made inside of the coroutine, so that a refused argument is raised by `await` too.
        result: R = await getattr(self, driver).run(definition(self._plans, *args, **kwargs), name)
        return result

    return _named(method, definition)


def sync_command[**P, R](
    definition: Callable[Concatenate[Any, P], Handle[R]],
) -> Callable[Concatenate[Any, P], R]:
    """
    Return the method that writes one command in a unit of work of its own.

    :param definition: a method of the facade's `_commands`.
    """
    name = _call_name(definition)

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        plan = run_command(
            self._plans.context, lambda work: definition(self._commands(work), *args, **kwargs)
        )
        result: R = self._driver.run(plan, name)
        return result

    return _named(method, definition)


def async_command[**P, R](
    definition: Callable[Concatenate[Any, P], Handle[R]],
) -> Callable[Concatenate[Any, P], Coro[R]]:
    """
    Return the coroutine method that writes one command in a unit of work of its own.

    :param definition: a method of the facade's `_commands`.
    """
    name = _call_name(definition)

    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        plan = run_command(
            self._plans.context, lambda work: definition(self._commands(work), *args, **kwargs)
        )
        result: R = await self._driver.run(plan, name)
        return result

    return _named(method, definition)


def block_method[**P, D, T, B](
    definition: Callable[Concatenate[Any, P], T], block: Callable[[D, T], B]
) -> Callable[Concatenate[Any, P], B]:
    """
    Return the method that gives a `with` block; it sends nothing, and so is never awaited.

    :param definition: a method of the class whose instance the facade has as `_plans`; it makes
        what the block runs.
    :param block: the sync or the async class of the block, made of the driver and that.
    """

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> B:
        return block(self._driver, definition(self._plans, *args, **kwargs))

    return _named(method, definition, block.__name__)


def _call_name(definition: Callable[..., Any]) -> str:
    """Return the name of a call for an observer: `MessageCommands.post` is `messages.post`."""
    owner, _, method = definition.__qualname__.rpartition(".")
    room = _ROOMS.get(owner)
    if room is None:
        words = re.sub("(Commands|Queries|Plans)$", "", owner)
        room = re.sub("(?<=[a-z])(?=[A-Z])", "_", words).lower() + "s"
    return f"{room}.{method}"


def _named[M: Callable[..., Any]](
    method: M, definition: Callable[..., Any], result: str | None = None
) -> M:
    """
    Give a method the name, docstring and signature of its definition, for `inspect` and IDEs.

    :param result: the annotation of what it returns; None takes the definition's.
    """
    method.__name__, method.__qualname__ = definition.__name__, definition.__qualname__
    method.__doc__, method.__module__ = definition.__doc__, definition.__module__
    # Annotations are text where a module postpones them, so the wrapper is cut off as text.
    known = signature(definition)
    result = result or str(known.return_annotation)
    for wrapper in ("Plan[", "Handle[", "ToolCallHandle["):
        if result.startswith(wrapper):
            result = result.removeprefix(wrapper).removesuffix("]")
    method.__signature__ = known.replace(return_annotation=result)  # type: ignore[attr-defined]  # `inspect` reads it
    return method


async def settled[T](work: Awaitable[T], on_cancel: Callable[[], None] | None = None) -> T:
    """
    Wait for an append until it has ended, also if the caller is cancelled meanwhile.

    Who is cancelled and reads again must see what was written. Some cancel again at each step of
    who cleans up, as anyio does.

    :param on_cancel: called when the caller is cancelled, to have the work end soon.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            if cancelled is None and on_cancel is not None:
                on_cancel()
            cancelled = cancelled or error
    if cancelled is not None:
        # Its error, if it has one, is looked at, or the event loop would complain of it.
        if not task.cancelled():
            task.exception()
        raise cancelled
    return task.result()
