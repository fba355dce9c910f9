"""
Sync and async from one definition.

A facade method is written once, as a plan. `Blocking` and `Awaiting` are descriptors that turn it
into a method that runs the plan at once, or into one that is awaited, with the same name, the same
parameters and the same docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import Signature, signature
from typing import Any, Concatenate, Self, overload

from eventstore.database.driver import Driver
from eventstore.database.driver_async import AsyncDriver
from eventstore.database.plan import Plan

__all__ = ["Awaiting", "Blocking", "OnAsyncDriver", "OnDriver"]


class OnDriver[P]:
    """A facade object whose plans (`P`) run on the sync driver."""

    def __init__(self, driver: Driver, plans: P) -> None:
        self._driver = driver
        self._plans = plans


class OnAsyncDriver[P]:
    """A facade object whose plans (`P`) run on the async driver."""

    def __init__(self, driver: AsyncDriver, plans: P) -> None:
        self._driver = driver
        self._plans = plans


def _signature(plan: Callable[..., Any]) -> Signature:
    """Return the signature without `self`, and with the plan's result instead of the plan."""
    known = signature(plan)
    result = str(known.return_annotation).removeprefix("Plan[").removesuffix("]")
    return known.replace(parameters=list(known.parameters.values())[1:], return_annotation=result)


def _dressed[M: Callable[..., Any]](method: M, plan: Callable[..., Any], shown: Signature) -> M:
    """Give a bound method the name and docstring of its plan, for people and for tool builders."""
    method.__name__, method.__qualname__ = plan.__name__, plan.__qualname__
    method.__doc__, method.__module__ = plan.__doc__, plan.__module__
    method.__signature__ = shown  # type: ignore[attr-defined]  # what `inspect` looks at first
    return method


class Blocking[**P, R]:
    """A method that runs a plan method to its result."""

    def __init__(self, plan: Callable[Concatenate[Any, P], Plan[R]]) -> None:
        self._plan = plan
        self.__doc__ = plan.__doc__
        self.__signature__ = _signature(plan)

    def __call__(self, instance: OnDriver[Any], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run on a facade object, as a function of its class would."""
        return instance._driver.run(self._plan(instance._plans, *args, **kwargs))  # noqa: SLF001 - its own object

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: OnDriver[Any], owner: type) -> Callable[P, R]: ...
    def __get__(self, instance: OnDriver[Any] | None, owner: type) -> Self | Callable[P, R]:
        """Bind to a facade object."""
        if instance is None:
            return self

        def method(*args: P.args, **kwargs: P.kwargs) -> R:
            return self(instance, *args, **kwargs)

        return _dressed(method, self._plan, self.__signature__)


class Awaiting[**P, R]:
    """A coroutine method that runs a plan method to its result."""

    def __init__(self, plan: Callable[Concatenate[Any, P], Plan[R]]) -> None:
        self._plan = plan
        self.__doc__ = plan.__doc__
        self.__signature__ = _signature(plan)

    async def __call__(self, instance: OnAsyncDriver[Any], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run on a facade object, as a function of its class would."""
        return await instance._driver.run(self._plan(instance._plans, *args, **kwargs))  # noqa: SLF001 - its own object

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self, instance: OnAsyncDriver[Any], owner: type
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(
        self, instance: OnAsyncDriver[Any] | None, owner: type
    ) -> Self | Callable[P, Coroutine[Any, Any, R]]:
        """Bind to a facade object."""
        if instance is None:
            return self

        async def method(*args: P.args, **kwargs: P.kwargs) -> R:
            return await self(instance, *args, **kwargs)

        return _dressed(method, self._plan, self.__signature__)
