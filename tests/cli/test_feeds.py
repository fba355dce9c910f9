"""`eventstore feeds` shows what is behind, and lets users go on."""

from __future__ import annotations

import json

from eventstore import EventStore, RecordedEvent
from tests.support.command import Command


def refuse(_: RecordedEvent) -> None:
    raise ValueError("cannot send")


def test_feeds_lists_retries_skips_and_removes(eventstore: Command, database_url: str) -> None:
    assert eventstore("feeds").stdout == "no feeds\n"
    with EventStore.connect(database_url) as store:
        for name in ("alice", "bob"):
            store.user(name).tasks.create("Buy milk")
        store.subscribe("mail", refuse, attempts=1).catch_up()

    (shown,) = json.loads(eventstore("feeds", "--json").stdout)
    failed = shown.pop("failed")

    assert shown == {"name": "mail", "users_behind": 2, "events_behind": 2, "parked": 2}
    assert [(one["user_id"], one["position"], one["error"]) for one in failed] == [
        ("alice", 1, "ValueError: cannot send"),
        ("bob", 1, "ValueError: cannot send"),
    ] or failed[0]["user_id"] == "bob"
    assert "ValueError: cannot send" in eventstore("feeds").stdout
    assert (
        eventstore("feeds", "--skip", "mail", "--user", "bob", "--position", "1").stdout
        == "skipped  1\n"
    )
    assert json.loads(eventstore("feeds", "--retry", "mail", "--json").stdout) == {"retried": 1}
    again = eventstore("feeds", "--retry", "mail", "--user", "bob")
    assert (again.returncode, again.stderr) == (
        1,
        "error: failed event of mail for bob not found\n",
    )
    assert eventstore("feeds", "--remove", "mail").stdout == "removed  mail\n"
    assert eventstore("feeds").stdout == "no feeds\n"


def test_a_feed_that_does_not_exist_is_not_found(eventstore: Command) -> None:
    for option in ("--retry", "--remove"):
        done = eventstore("feeds", option, "mial")
        assert done.returncode == 1
        assert "feed mial not found" in done.stderr


def test_feeds_refuses_options_that_do_not_go_together(eventstore: Command) -> None:
    for wrong in (
        ["--retry", "a", "--skip", "b"],
        ["--skip", "a", "--user", "b"],
        ["--position", "1"],
        ["--user", "alice"],
    ):
        assert eventstore("feeds", *wrong).returncode == 2
