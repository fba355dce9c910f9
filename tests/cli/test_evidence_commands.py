"""The commands for evidence: anchor, verify --anchor, doctor, export, erase."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from eventstore import EventStore
from tests.support.command import Command
from tests.support.tampering import disarm


@pytest.fixture(autouse=True)
def given_two_users(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        for name in ("alice", "bob"):
            user = store.user(name)
            user.conversations.start(key="c1")
            user.messages.post("c1", sender="user", content=f"{name} says")
            user.tasks.create(f"{name}'s task")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """The paths of an Ed25519 key pair."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    key = Ed25519PrivateKey.generate()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def delete_last_event(admin: psycopg.Connection, user_id: str) -> None:
    """Delete the last event and repair every row that would reveal the deletion."""
    disarm(admin)
    admin.execute(
        """
        with deleted as (
            delete from eventstore.event where user_id = %(user)s
              and position = (select max(position) from eventstore.event where user_id = %(user)s)
            returning stream_id, position
        ), gone as (delete from eventstore.stream where stream_id = (select stream_id from deleted)
        ), row as (delete from eventstore.task where id = (select stream_id from deleted))
        update eventstore.user_log as u
        set position = e.position, hash = e.hash, recorded_at = e.recorded_at
        from eventstore.event as e, deleted
        where u.user_id = %(user)s and e.user_id = u.user_id and e.position = deleted.position - 1
        """,
        {"user": user_id},
    )


def test_an_anchor_is_written_once_and_verified(eventstore: Command, tmp_path: Path) -> None:
    written = eventstore("anchor", "a.jsonl", "--json")
    verified = eventstore("verify", "--anchor", "a.jsonl", "--json")
    again = eventstore("anchor", "a.jsonl")

    assert json.loads(written.stdout) == {"file": "a.jsonl", "heads": 2, "signed": False}
    report = json.loads(verified.stdout)
    assert (report["anchors"], report["ok"], verified.returncode) == (2, True, 0)
    assert again.returncode == 2
    assert "a.jsonl: exists already; name a new file" in again.stderr
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line).get("user_id") for line in lines] == [None, "alice", "bob", None]


def test_an_anchor_of_some_users_goes_to_standard_output(eventstore: Command) -> None:
    lines = eventstore("anchor", "-", "--user", "bob").stdout.splitlines()
    absent = eventstore("anchor", "none.jsonl", "--user", "carol")

    assert [json.loads(line).get("user_id") for line in lines] == [None, "bob", None]
    assert (absent.returncode, absent.stderr) == (1, "error: user carol not found\n")
    assert not Path("none.jsonl").exists()


def test_a_deleted_last_event_is_found_only_with_an_anchor(
    eventstore: Command, admin: psycopg.Connection
) -> None:
    eventstore("anchor", "a.jsonl")
    delete_last_event(admin, "alice")

    alone = eventstore("verify", "--json")
    anchored = eventstore("verify", "--anchor", "a.jsonl", "--json")

    assert (alone.returncode, json.loads(alone.stdout)["ok"]) == (0, True)
    (problem,) = json.loads(anchored.stdout)["problems"]
    assert anchored.returncode == 1
    assert (problem["kind"], problem["user_id"], problem["position"]) == ("anchor", "alice", 3)
    assert "the anchor is newer than the log, which ends at 2" in problem["detail"]


def test_two_processes_find_the_same_problems_as_one(
    eventstore: Command, admin: psycopg.Connection
) -> None:
    eventstore("anchor", "a.jsonl")
    delete_last_event(admin, "alice")
    admin.execute("update eventstore.task set title = 'spoilt' where user_id = 'bob'")

    one = eventstore("verify", "--anchor", "a.jsonl", "--json")
    two = eventstore("verify", "--anchor", "a.jsonl", "--jobs", "2", "--json")

    assert (one.returncode, two.returncode) == (1, 1)
    assert json.loads(two.stdout) == json.loads(one.stdout)
    assert [problem["kind"] for problem in json.loads(two.stdout)["problems"]] == [
        "anchor",
        "changed_row",
    ]


def test_verify_counts_the_events_that_no_anchor_confirms(
    eventstore: Command, database_url: str
) -> None:
    eventstore("anchor", "old.jsonl")
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("after the anchor")

    text = eventstore("verify", "--anchor", "old.jsonl").stdout
    document = json.loads(eventstore("verify", "--anchor", "old.jsonl", "--json").stdout)

    assert "1 event confirmed by no anchor" in text
    assert document["events"] - document["anchored"] == 1
    taken_at = json.loads(Path("old.jsonl").read_text().splitlines()[0])["taken_at"]
    assert datetime.fromisoformat(document["anchored_at"]) == datetime.fromisoformat(taken_at)
    assert json.loads(eventstore("verify", "--json").stdout)["anchored_at"] is None


def test_verify_ends_with_status_1_where_a_policy_may_hide_rows(
    eventstore: Command, admin: psycopg.Connection
) -> None:
    admin.execute("create policy less on eventstore.event as restrictive using (position <> 2)")

    verified = eventstore("verify")

    assert (verified.returncode, verified.stdout) == (1, "")
    assert "policy less is restrictive" in verified.stderr
    assert eventstore("rebuild").returncode == 2


def test_two_processes_verify_a_user_id_that_the_store_would_refuse(
    eventstore: Command, admin: psycopg.Connection
) -> None:
    admin.execute(
        "insert into eventstore.user_log (user_id, position, hash, recorded_at)"
        " values ('  ', 0, '', now())"
    )
    admin.execute("update eventstore.task set title = 'spoilt' where user_id = 'bob'")

    one, two = (eventstore("verify", "--json", "--jobs", jobs) for jobs in ("1", "2"))

    assert (one.returncode, two.returncode) == (1, 1), two.stderr
    assert json.loads(two.stdout) == json.loads(one.stdout)


def test_a_signed_anchor_is_trusted_only_under_its_public_key(
    eventstore: Command, keys: tuple[Path, Path]
) -> None:
    private, public = keys
    eventstore("anchor", "signed.jsonl", "--key", private)
    eventstore("anchor", "plain.jsonl")

    trusted = eventstore("verify", "--anchor", "signed.jsonl", "--public-key", public)
    refused = eventstore("verify", "--anchor", "plain.jsonl", "--public-key", public)
    no_anchor = eventstore("verify", "--public-key", public)
    unchecked = eventstore("verify", "--anchor", "signed.jsonl")
    assert unchecked.returncode == 0
    assert "a signature was not checked" in unchecked.stderr
    assert "not checked" not in trusted.stderr
    no_key = eventstore("anchor", "other.jsonl", "--key", public)

    assert (trusted.returncode, "2 anchored heads found again" in trusted.stdout) == (0, True)
    assert refused.stderr == "error: plain.jsonl: is not signed by this key; do not trust it\n"
    assert (refused.returncode, no_anchor.returncode, no_key.returncode) == (2, 2, 2)
    assert not Path("other.jsonl").exists()


def test_the_doctor_reports_its_findings_and_its_exit_status(
    eventstore: Command, admin: psycopg.Connection
) -> None:
    healthy = eventstore("doctor", "--json")
    strict = eventstore("doctor", "--strict")
    admin.execute("alter table eventstore.task no force row level security")
    sick = eventstore("doctor", "--json")
    refused = eventstore("status")

    assert (healthy.returncode, strict.returncode, sick.returncode) == (0, 1, 1)
    report = json.loads(sick.stdout)
    assert list(report) == ["database", "ok", "findings"]
    assert list(report["findings"][0]) == ["severity", "check", "location", "detail", "remedy"]
    assert (report["ok"], report["findings"][0]["location"]) == (False, "eventstore.task")
    assert {one["severity"] for one in report["findings"]} == {"error", "warning"}
    assert refused.returncode == 2
    assert "eventstore.task: row-level security is not forced" in refused.stderr


def test_an_export_is_a_new_file_that_only_its_owner_may_read(
    eventstore: Command, tmp_path: Path
) -> None:
    printed = eventstore("export", "--user", "alice")
    written = eventstore("export", "--user", "alice", "--output", "alice.json")
    again = eventstore("export", "--user", "alice", "--output", "alice.json")
    absent = eventstore("export", "--user", "carol", "--output", "carol.json")

    file = tmp_path / "alice.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    assert (written.returncode, oct(file.stat().st_mode)[-3:]) == (0, "600")
    assert document | {"exported_at": 0} == json.loads(printed.stdout) | {"exported_at": 0}
    assert [one["position"] for one in document["events"]] == [1, 2, 3]
    assert "bob" not in printed.stdout
    assert (again.returncode, absent.returncode) == (2, 1)
    assert not (tmp_path / "carol.json").exists()


def test_erasing_needs_confirmation_and_leaves_a_valid_log(eventstore: Command) -> None:
    order = ("erase", "--user", "alice", "--ordered-by", "privacy desk", "--reason", "asked")

    unconfirmed = eventstore(*order)
    erased = eventstore(*order, "--yes", "--json")
    verified = eventstore("verify", "--json")
    tail = eventstore("tail", "--user", "alice", "--json")
    audit = eventstore("audit", "--user", "alice", "--status", "erased", "--json")

    assert (unconfirmed.returncode, "--yes: is missing" in unconfirmed.stderr) == (2, True)
    done = json.loads(erased.stdout)
    assert (done["events"], done["position"], done["ordered_by"]) == (3, 4, "privacy desk")
    report = json.loads(verified.stdout)
    assert (report["erased"], report["ok"]) == (3, True)
    lines = [json.loads(line) for line in tail.stdout.splitlines()]
    assert [one["data"] for one in lines[:3]] == [None] * 3
    assert lines[3]["data"]["reason"] == "asked"
    assert json.loads(audit.stdout) == []
    assert "alice says" not in erased.stdout + tail.stdout


def test_an_audit_of_all_users_continues_after_an_id_that_no_user_can_have(
    eventstore: Command, database_url: str, admin: psycopg.Connection
) -> None:
    with EventStore.connect(database_url) as store:
        chat = store.user("alice").conversations.start(key="k")
        store.user("alice").tool_calls.request(chat.id, name="f", arguments="{}")
    admin.execute("alter table eventstore.user_log disable trigger all")
    admin.execute("insert into eventstore.user_log select ' ', position, hash, recorded_at, retried"
                  " from eventstore.user_log where user_id = 'alice'")  # fmt: skip

    listed = eventstore("audit", "--json")

    assert [one["name"] for one in json.loads(listed.stdout)] == ["f"]
    assert listed.returncode == 1
    assert "user ' ' was left as is" in listed.stderr


def test_an_audit_of_all_users_continues_after_a_log_that_cannot_be_read(
    eventstore: Command, database_url: str, admin: psycopg.Connection
) -> None:
    with EventStore.connect(database_url) as store:
        for name in ("alice", "bob", "carol"):
            chat = store.user(name).conversations.start(key="k")
            store.user(name).tool_calls.request(chat.id, name=f"{name}s", arguments="{}")
    admin.execute("alter table eventstore.event disable trigger all")
    admin.execute("update eventstore.event set type = 'Odd' where user_id = 'bob' and position = 2")

    Path("mine.py").write_text("tools = {'alices': lambda: 1, 'carols': lambda: 2}")
    listed = eventstore("audit", "--json")
    run = eventstore("audit", "--run", "mine:tools")
    alone = eventstore("audit", "--json", "--user", "bob")

    assert [one["name"] for one in json.loads(listed.stdout)] == ["alices", "carols"]
    assert listed.returncode == alone.returncode == run.returncode == 1
    assert "user 'bob' was left as is" in listed.stderr
    assert "user 'bob' was left as is" in run.stderr
