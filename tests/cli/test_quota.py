"""`eventstore quota` shows and sets how many events a user's log may hold."""

from __future__ import annotations

import json

import pytest

from eventstore import EventStore, QuotaReached
from tests.support.command import Command


def test_a_quota_is_shown_set_and_lifted(eventstore: Command, database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        alice.tasks.create("Buy milk")

        shown = eventstore("quota", "--user", "alice").stdout
        limited = json.loads(
            eventstore("quota", "--user", "alice", "--events", "1", "--json").stdout
        )
        with pytest.raises(QuotaReached):
            alice.tasks.create("Buy bread")
        lifted = json.loads(eventstore("quota", "--user", "alice", "--none", "--json").stdout)
        alice.tasks.create("Buy bread")

    assert shown == "user_id  alice\nevents   1\nlimit    (none)\n"
    assert limited == {"user_id": "alice", "events": 1, "limit": 1}
    assert lifted == {"user_id": "alice", "events": 1, "limit": None}


def test_the_quota_of_nobody_and_two_limits_at_once_are_refused(eventstore: Command) -> None:
    nobody = eventstore("quota", "--user", "bob", "--events", "1")
    both = eventstore("quota", "--user", "bob", "--events", "1", "--none")

    assert (nobody.returncode, nobody.stderr) == (1, "error: user bob not found\n")
    assert (both.returncode, both.stderr) == (2, "error: --none: not together with --events\n")
