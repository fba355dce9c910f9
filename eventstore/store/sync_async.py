"""
Sync and async methods from one definition.

What a method does is written once, as a plan (see `database.plan`) or as a command (see
`unit_of_work`). The descriptors below turn it into a method that runs at once, or into one that is
awaited, with the same name, parameters and docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import Signature, signature
from typing import Any, ClassVar, Concatenate, Self, overload

from eventstore.database.driver import Driver
from eventstore.database.driver_async import AsyncDriver
from eventstore.database.plan import Plan
from eventstore.store.unit_of_work import Commands, Handle, run_command

__all__ = [
    "AsyncCommand",
    "AsyncFacade",
    "AsyncMethod",
    "SyncCommand",
    "SyncFacade",
    "SyncMethod",
]


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


def _as_method(definition: Callable[..., Any]) -> Signature:
    """Return a definition's signature without `self`, with its result instead of plan or handle."""
    known = signature(definition)
    result = str(known.return_annotation)
    for wrapper in ("Plan[", "Handle[", "ToolCallHandle["):
        if result.startswith(wrapper):
            result = result.removeprefix(wrapper).removesuffix("]")
    return known.replace(parameters=list(known.parameters.values())[1:], return_annotation=result)


class _Method:
    """What the four descriptors have in common: the definition they give a method to."""

    def __init__(self, definition: Callable[..., Any]) -> None:
        self._definition = definition
        self.__doc__ = definition.__doc__
        self.__signature__ = _as_method(definition)

    def _plan(self, facade: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan[Any]:
        """Return the plan of one call."""
        plan: Plan[Any] = self._definition(facade._plans, *args, **kwargs)  # noqa: SLF001 - its own object
        return plan

    def _dress[M: Callable[..., Any]](self, method: M) -> M:
        """Give a bound method the name and docstring of its definition, for `inspect` and IDEs."""
        of = self._definition
        method.__name__, method.__qualname__ = of.__name__, of.__qualname__
        method.__doc__, method.__module__ = of.__doc__, of.__module__
        method.__signature__ = self.__signature__  # type: ignore[attr-defined]  # `inspect` reads it
        return method


class SyncMethod[**P, R](_Method):
    """A method that runs a plan to its result."""

    def __init__(self, plan: Callable[Concatenate[Any, P], Plan[R]]) -> None:
        super().__init__(plan)

    def __call__(self, facade: SyncFacade[Any], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run on a facade, as an ordinary function of its class would."""
        result: R = facade._driver.run(self._plan(facade, args, kwargs))  # noqa: SLF001 - its own object
        return result

    @overload
    def __get__(self, facade: None, owner: type) -> Self: ...
    @overload
    def __get__(self, facade: SyncFacade[Any], owner: type) -> Callable[P, R]: ...
    def __get__(self, facade: SyncFacade[Any] | None, owner: type) -> Self | Callable[P, R]:
        """Bind to a facade."""
        if facade is None:
            return self

        def method(*args: P.args, **kwargs: P.kwargs) -> R:
            return self(facade, *args, **kwargs)

        return self._dress(method)


class AsyncMethod[**P, R](_Method):
    """A coroutine method that runs a plan to its result."""

    def __init__(self, plan: Callable[Concatenate[Any, P], Plan[R]]) -> None:
        super().__init__(plan)

    async def __call__(self, facade: AsyncFacade[Any], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run on a facade, as an ordinary function of its class would."""
        result: R = await facade._driver.run(self._plan(facade, args, kwargs))  # noqa: SLF001 - its own object
        return result

    @overload
    def __get__(self, facade: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self, facade: AsyncFacade[Any], owner: type
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(
        self, facade: AsyncFacade[Any] | None, owner: type
    ) -> Self | Callable[P, Coroutine[Any, Any, R]]:
        """Bind to a facade."""
        if facade is None:
            return self

        async def method(*args: P.args, **kwargs: P.kwargs) -> R:
            return await self(facade, *args, **kwargs)

        return self._dress(method)


class _Command(_Method):
    """A method whose definition is a command, run in a unit of work of its own."""

    def _plan(self, facade: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan[Any]:
        return run_command(
            facade._plans.context,  # noqa: SLF001 - its own object
            lambda work: self._definition(facade._commands(work), *args, **kwargs),  # noqa: SLF001 - its own object
        )


class SyncCommand[**P, R](_Command, SyncMethod[P, R]):
    """A method that writes one command."""

    def __init__(self, command: Callable[Concatenate[Any, P], Handle[R]]) -> None:
        _Method.__init__(self, command)


class AsyncCommand[**P, R](_Command, AsyncMethod[P, R]):
    """A coroutine method that writes one command."""

    def __init__(self, command: Callable[Concatenate[Any, P], Handle[R]]) -> None:
        _Method.__init__(self, command)
