"""
A large import, and a rebuild of all users while some of them keep writing.

`python -m benchmarks.at_size FILE… [--users N] [--writers N]` imports conversations (OpenAI chat
format, see docs/cli.md), empties the read models, rebuilds them while writers post messages, and
checks that every acknowledged message is there. It prints events per second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.server import run_server
from eventstore import EventStore

_WRITERS = 4


def main() -> None:
    """Import, rebuild and verify once, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--writers", type=int, default=_WRITERS)
    arguments = parser.parse_args()
    with run_server() as server:
        url = server.url("template")
        imported = _command(url, "import", "--users", arguments.users, "--json", *arguments.files)
        print("import", imported, f"{imported['events'] / imported['seconds']:,.0f} events/s")
        with server.admin("template") as admin:
            admin.execute("truncate eventstore.task, eventstore.conversation, eventstore.message")
        rebuilt, acknowledged = _rebuild_with_writers(url, arguments.users, arguments.writers)
        print("rebuild", rebuilt, f"{rebuilt['events'] / rebuilt['seconds']:,.0f} events/s")
        with EventStore.connect(url) as store:
            lost = [
                (user_id, key)
                for user_id, key, ids in acknowledged
                if [one.id for one in store.user(user_id).history(key)] != ids
            ]
        print(
            f"{sum(len(ids) for *_, ids in acknowledged):,} messages written during the rebuild,"
            f" {len(lost)} conversations differ from what was acknowledged"
        )
        verified = _command(url, "verify", "--jobs", 2, "--json")
        print("verify", {name: verified[name] for name in ("users", "events", "ok")})


def _rebuild_with_writers(
    url: str, users: int, writers: int
) -> tuple[dict[str, float], list[tuple[str, str, list[object]]]]:
    """
    Rebuild while writers post messages to new conversations of the imported users.

    :return: the result of the rebuild, and user, key and message ids of each conversation written.
    """
    stop = threading.Event()
    acknowledged: list[tuple[str, str, list[object]]] = []

    def write(number: int, store: EventStore) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            # The factor keeps the writers apart, so that they rarely wait for one user.
            user = store.user(f"user-{(number * 37 + turn) % users + 1}")
            key = f"writer-{number}-{turn}"
            user.conversations.start(key=key)
            ids = [user.messages.post(key, sender="user", content="hi").id for _ in range(3)]
            acknowledged.append((user.user_id, key, list(ids)))

    with EventStore.connect(url) as store:
        threads = [
            threading.Thread(target=write, args=(number, store)) for number in range(writers)
        ]
        for thread in threads:
            thread.start()
        try:
            started = time.monotonic()
            rebuilt = _command(url, "rebuild", "--jobs", 2, "--json")
            rebuilt["seconds"] = time.monotonic() - started
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    return rebuilt, acknowledged


def _command(url: str, *arguments: object) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "eventstore.cli", *map(str, arguments), "--database", url],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    main()
