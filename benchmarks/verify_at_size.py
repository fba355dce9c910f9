"""
How fast verify is, and whether its memory use stays constant, as logs grow to a million events.

`python -m benchmarks.verify_at_size [--events N] [--users N] [--jobs N] [--message-bytes N]`
appends real events in steps (a tenth, a third, all of them) and runs `eventstore verify` after each
step. It prints events per second, the peak memory of the largest process, and the ratio to a
process that only reads the same columns. A million events take some minutes to append.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from itertools import batched
from typing import Any

import psycopg

from benchmarks.server import run_server
from benchmarks.turns import text
from eventstore import EventStore
from eventstore.imports.conversation import ImportedConversation, ImportedMessage

_PER_CONVERSATION = 250
_BYTES_PER_CONVERSATION = 4_000_000
_READ = """
select position, stream_id, version, event_id, type, schema_version, payload::text, metadata::text,
       correlation_id, causation_id, occurred_at, recorded_at, idempotency_key, append_size, salt,
       payload_digest, hash
from eventstore.event where user_id = %s order by position
"""


def main() -> None:
    """Append and verify in steps, and print a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--message-bytes", type=int, default=len(text(0)), help="approximate")
    arguments = parser.parse_args()
    with run_server() as server:
        url = server.url("template")
        done = 0
        for share in (0.1, 0.33, 1.0):
            until = int(arguments.events * share)
            appending = time.monotonic()
            _append(url, done, until, arguments.users, arguments.message_bytes)
            appended = (until - done) / (time.monotonic() - appending)
            done = until
            with server.admin("template") as admin:
                # Autovacuum is off on this server.
                admin.execute("vacuum analyze")
            read = _run_process("read", url, arguments.jobs)
            verified = _run_process("verify", url, arguments.jobs)
            print(
                f"{verified['events']:>9,} events of {arguments.users:,} users:"
                f" {verified['events'] / verified['seconds']:,.0f} events/s verified,"
                f" peak {verified['peak_megabytes']:,.0f} MB,"
                f" {verified['seconds'] / read['seconds']:.1f} times a plain read"
                f" (appended at {appended:,.0f} events/s)",
                flush=True,
            )


def _append(url: str, done: int, until: int, users: int, message_bytes: int) -> None:
    """Append conversations until the logs have `until` events; they have `done` already."""
    events = min(_PER_CONVERSATION, 1 + max(1, _BYTES_PER_CONVERSATION // message_bytes))
    texts = max(1, message_bytes // len(text(0)))
    messages = [
        ImportedMessage(
            "user",
            {"role": "user", "content": "".join(text(number * texts + n) for n in range(texts))},
        )
        for number in range(events - 1)
    ]
    numbers = range(done // events, until // events)
    with EventStore.connect(url) as store:
        for some in batched(numbers, 64, strict=False):
            conversations = [
                (f"user-{number % users}", ImportedConversation(f"chat-{number}", messages))
                for number in some
            ]
            store.import_conversations(conversations, jobs=2)


def _run_process(work: str, url: str, jobs: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.verify_at_size", work, url, str(jobs)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _verify(url: str, jobs: int) -> int:
    """Run the command as an operator does, with `jobs` processes."""
    command = [sys.executable, "-m", "eventstore.cli", "verify", "--json", "--jobs", str(jobs)]
    done = subprocess.run(
        [*command, "--database", url], stdout=subprocess.PIPE, check=True, text=True
    )
    return int(json.loads(done.stdout)["events"])


def _read(url: str) -> int:
    with EventStore.connect(url) as store:
        users = store.users()
    count = 0
    with psycopg.connect(url) as connection:
        for user in users:
            with connection.cursor(name="events", binary=True) as cursor:
                cursor.itersize = 5_000
                count += sum(1 for _ in cursor.execute(_READ, (user,)))
    return count


def _child(work: str, url: str, jobs: int) -> None:
    started = time.monotonic()
    events = _verify(url, jobs) if work == "verify" else _read(url)
    seconds = time.monotonic() - started
    who = resource.RUSAGE_CHILDREN if work == "verify" else resource.RUSAGE_SELF
    # For children, this is the peak of the largest one.
    peak = resource.getrusage(who).ru_maxrss / 1024
    print(json.dumps({"events": events, "seconds": seconds, "peak_megabytes": peak}))


if __name__ == "__main__":
    if sys.argv[1:2] in (["verify"], ["read"]):
        _child(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
