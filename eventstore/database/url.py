"""
Read a database URL: what is a PostgreSQL server, what is the embedded one.

Accepts what people paste: `postgresql://`, `postgres://`, SQLAlchemy's `postgresql+psycopg://`,
`embedded:PATH`, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import platformdirs
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from eventstore.errors import ConfigurationError

__all__ = ["Embedded", "Server", "parse_url"]


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL server that runs without us."""

    conninfo: str

    @property
    def display(self) -> str:
        """Return where it is, for messages: never the password."""
        facts = conninfo_to_dict(self.conninfo)
        return f"{facts.get('host', 'localhost')}/{facts.get('dbname', '')}"


@dataclass(frozen=True, slots=True)
class Embedded:
    """A server of our own, its data under `path`."""

    path: Path

    @property
    def display(self) -> str:
        """Return where it is, for messages."""
        return f"embedded:{self.path}"


def parse_url(url: str | None) -> Server | Embedded:
    """
    Say where the database is.

    :param url: None: the embedded server in the user's data folder.
    :raises ConfigurationError: neither form; the message never repeats a password.
    """
    if url is None:
        return Embedded(platformdirs.user_data_path("todo-eventstore") / "postgresql")
    if not url.strip():  # a variable that a script forgot to set is not a wish for another database
        raise ConfigurationError(
            "the database URL is empty; give postgresql://USER:PASSWORD@HOST/DATABASE, "
            "or unset EVENTSTORE_DATABASE_URL for a server of the store's own"
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
        if "invalid URI query parameter" in str(error):  # names the parameter and nothing else
            raise ConfigurationError(
                f"the database URL has an {str(error).strip()}; leave it out"
            ) from None
        raise ConfigurationError(
            "not a PostgreSQL URL; give postgresql://USER:PASSWORD@HOST/DATABASE or embedded:PATH, "
            "with %40 for @, %3A for : and %2F for / in a password"
        ) from None
