"""
A process that answers the same turns as its siblings, until it is killed or all are completed.

Arguments: the database's URL, how many turns there are, and how many threads to run. Each turn has
one tool, which notes in the table `ran` that it runs.
"""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg

from eventstore import ConversationBusy, EventStore, Settings, TurnTakenOver

CONVERSATIONS = 8
LEASE_SECONDS = 3


def main(database_url: str, turns: int, threads: int) -> None:
    settings = Settings(database_url=database_url, pool_max_size=threads)
    with EventStore.connect(settings=settings) as store:
        alice = store.user("alice")

        def answer(number: int) -> None:
            chat, text = f"chat {number % CONVERSATIONS}", f"request {number}"
            question = {"role": "user", "content": text}
            with alice.turn(
                chat, key=text, items=[question], lease_seconds=LEASE_SECONDS, wait_seconds=2
            ) as turn:
                while not turn.ended:
                    for call in turn.pending_calls:
                        with psycopg.connect(database_url, autocommit=True) as tool:
                            tool.execute("insert into ran (call_id) values (%s)", (call.id,))
                        turn.succeed(call, output=f"found {text}")
                    if len(turn.own_messages) == 1:
                        function = {"name": "look", "arguments": text}
                        turn.extend(
                            [
                                {
                                    "role": "assistant",
                                    "content": None,
                                    "tool_calls": [{"id": "call_0", "function": function}],
                                }
                            ]
                        )
                    else:
                        turn.end([{"role": "assistant", "content": f"answer to {text}"}])

        def work(_: int) -> None:
            # Each thread takes the turns in an order of its own, so that all meet everywhere.
            left = random.sample(range(turns), turns)
            while left:
                try:
                    answer(left[0])
                except (ConversationBusy, TurnTakenOver):
                    left.append(left[0])
                left.pop(0)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
