"""
Settings, read from the environment variables `EVENTSTORE_…`, with their defaults.

Durations are in seconds. A value that does not fit is refused when the settings are loaded, and
never replaced by a default.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import platformdirs
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventstore.database.roles import ROLE_NAME, Role
from eventstore.errors import ConfigurationError

__all__ = [
    "LONGEST_SECONDS",
    "Embedded",
    "Server",
    "Settings",
    "load_settings",
    "parse_url",
    "unknown_settings",
]

_PREFIX = "EVENTSTORE_"
_NOT_OURS = {"EVENTSTORE_EXTENSIONS"}
"""Read by the command line. Names that begin with EVENTSTORE_TEST_ are for the store's tests."""

LONGEST_SECONDS = 1_000_000
"""PostgreSQL holds a time limit as 31 bits of milliseconds."""


class Settings(BaseSettings):
    """
    The address of the database, the time of a call, the size of the pool, the names of the roles.

    The defaults suit a web worker behind a pooler: few connections, and calls that end while the
    person still waits. Where a cold start takes longer, give calls more time.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True)

    database_url: str | None = Field(
        default=None, description="postgresql://… or embedded:PATH; None means the embedded server"
    )
    deadline_seconds: float = Field(
        default=5.0, gt=0, le=LONGEST_SECONDS, description="a call has ended by then, with whatever"
    )
    pool_min_size: int = Field(default=1, ge=0, description="connections kept open")
    pool_max_size: int = Field(default=10, ge=1, description="connections at most")
    max_idle_seconds: float = Field(
        default=240.0,
        gt=0,
        le=LONGEST_SECONDS,
        description="close a connection that is idle for so long; Neon suspends after 300",
    )
    search_path: str = Field(
        default="public",
        pattern=rf"^{ROLE_NAME}(, *{ROLE_NAME})*$",
        description="schemas of your own tables and types, after pg_catalog",
    )
    application_role: str = Field(
        default=Role.APPLICATION.value, pattern=f"^{ROLE_NAME}$", description="works for one user"
    )
    operator_role: str = Field(
        default=Role.OPERATOR.value, pattern=f"^{ROLE_NAME}$", description="lists users"
    )
    eraser_role: str = Field(
        default=Role.ERASER.value, pattern=f"^{ROLE_NAME}$", description="removes payloads"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        names = {self.application_role, self.operator_role, self.eraser_role}
        if len(names) < len(Role):
            raise ValueError(f"{_PREFIX}…_ROLE: the three roles need three names")
        if self.pool_min_size > self.pool_max_size:
            raise ValueError(
                f"{_PREFIX}POOL_MIN_SIZE: {self.pool_min_size} is more than "
                f"{_PREFIX}POOL_MAX_SIZE, which is {self.pool_max_size}"
            )
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            raise ConfigurationError(_refusal(error)) from None

    @cached_property
    def role_names(self) -> dict[Role, str]:
        """Return the name of each role on this server."""
        return {
            Role.APPLICATION: self.application_role,
            Role.OPERATOR: self.operator_role,
            Role.ERASER: self.eraser_role,
        }


def load_settings(database_url: str | None = None, **overrides: object) -> Settings:
    """
    Load the settings from the environment.

    :param database_url: replaces EVENTSTORE_DATABASE_URL; None leaves it.
    :param overrides: values by the name of the field, each of which replaces its variable; None
        leaves it.
    :raises ConfigurationError: a value does not fit, of a variable that is replaced too; the
        message names the variable.
    """
    given = {"database_url": database_url, **overrides}
    Settings()  # an argument must not hide what is wrong with the variable that it replaces
    return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # pydantic checks the values


def _refusal(error: ValidationError) -> str:
    """Return what is wrong; pydantic's own text repeats the value, which may have a password."""
    first = error.errors()[0]
    text = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return text
    name = _PREFIX + str(first["loc"][0]).upper()
    return (
        f"{name} is no setting{_hint(name)}"
        if first["type"] == "extra_forbidden"
        else f"{name}: {text}"
    )


def unknown_settings(variables: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield a warning for each variable that is named like a setting and is none."""
    for name in sorted(variables):
        upper = name.upper()
        if upper in {*_NAMES, *_NOT_OURS} or upper.startswith(f"{_PREFIX}TEST_"):
            continue
        # EVENT_STORE_DATABASE_URL would have the store start a server of its own.
        if upper.startswith(_PREFIX) or get_close_matches(upper, _NAMES, 1, _SAME_BUT_FOR_A_SLIP):
            yield f"{name} is no setting of the store and has no effect{_hint(upper)}"


_NAMES = [_PREFIX + name.upper() for name in Settings.model_fields]
_SAME_BUT_FOR_A_SLIP = 0.93
"""How like a setting a name is that is meant for one, though it does not begin like one."""


def _hint(name: str) -> str:
    """Return which setting was meant, if one is near."""
    # Without the prefix, which every name has and which would make all of them near.
    rest = [one.removeprefix(_PREFIX) for one in _NAMES]
    near = get_close_matches(name.removeprefix(_PREFIX), rest, 1, 0.4)
    return f"; did you mean {_PREFIX}{near[0]}?" if near else ""


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL server that runs by itself, and how to connect to it."""

    conninfo: str

    @property
    def display(self) -> str:
        """Return host and database, for messages; no login or password is in it."""
        parameters = conninfo_to_dict(self.conninfo)
        return f"{parameters.get('host', 'localhost')}/{parameters.get('dbname', '')}"


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embedded server whose data folder is `path`."""

    path: Path

    @property
    def display(self) -> str:
        """Return the data folder, for messages."""
        return f"embedded:{self.path}"


def parse_url(url: str | None) -> Server | Embedded:
    """
    Parse a database URL.

    :param url: `postgresql://…` or `embedded:PATH`; None means the embedded server in the data
        folder of the user who runs the process.
    :return: where the database is; nothing is connected or started yet.
    :raises ConfigurationError: the URL has neither form; the message never repeats a password.
    """
    if url is None:
        return Embedded(platformdirs.user_data_path("todo-eventstore") / "postgresql")
    if not url.strip():
        # A script that left the variable empty must not fall back to the embedded server.
        raise ConfigurationError(
            "the database URL is empty; give postgresql://USER:PASSWORD@HOST/DATABASE, "
            "or unset EVENTSTORE_DATABASE_URL to use the embedded server"
        )
    if url.startswith("embedded:"):
        path = url.removeprefix("embedded:").removeprefix("//")
        if not path:
            raise ConfigurationError(f"the database URL {url!r} lacks a path: embedded:PATH")
        return Embedded(Path(path).expanduser().resolve())
    for alias in ("postgresql+psycopg://", "postgres+psycopg://", "postgres://"):
        if url.startswith(alias):
            url = "postgresql://" + url.removeprefix(alias)
    scheme = url.partition("://")[0]
    if scheme.startswith("postgresql+"):
        raise ConfigurationError(
            f"the database URL is for the driver {scheme.partition('+')[2]}; "
            "give it as postgresql://…"
        )
    try:
        return Server(make_conninfo(url))
    except psycopg.ProgrammingError as error:
        # libpq names the wrong query parameter; its other messages may repeat the password.
        if "invalid URI query parameter" in str(error):
            raise ConfigurationError(
                f"the database URL has an {str(error).strip()}; remove it"
            ) from None
        raise ConfigurationError(
            "not a PostgreSQL URL; give postgresql://USER:PASSWORD@HOST/DATABASE or embedded:PATH, "
            "with %40 for @, %3A for : and %2F for / in a password"
        ) from None
