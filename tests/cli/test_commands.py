"""The command line: the fields of `--json`, exit statuses, and errors that name their cause."""

from __future__ import annotations

import gzip
import json
import lzma
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg
import pytest

from eventstore import EventStore, NewEvent
from tests.imports.samples import CHATGPT, CLAUDE, OPEN_WEBUI, RESPONSES
from tests.support.command import Command

CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "Buy milk\u0000 🥛 \ud800", "name": "al"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "add", "arguments": '{"a": 1.10, "a": 2}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "ok"},
    {"role": "assistant", "content": "Done"},
]


@pytest.fixture
def chat_file(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"id": "c1", "messages": CHAT}) + "\n", encoding="utf-8")
    return path


def test_import_counts_what_it_writes_and_skips_it_the_second_time(
    eventstore: Command, chat_file: Path
) -> None:
    first = json.loads(eventstore("import", "--user", "alice", "--json", chat_file).stdout)
    second = json.loads(eventstore("import", "--user", "alice", "--json", chat_file).stdout)

    assert list(first) == [
        "conversations", "messages", "tool_calls", "events", "imported", "grown", "skipped",
        "failed", "failures", "dry_run", "seconds",
    ]  # fmt: skip
    assert list(first.values())[:-1] == [1, 4, 1, 6, 1, 0, 0, 0, [], False]
    assert list(second.values())[:-1] == [1, 0, 0, 0, 0, 0, 1, 0, [], False]


@pytest.mark.parametrize("source", ["projection", "events"])
def test_history_returns_the_imported_conversation(
    eventstore: Command, chat_file: Path, source: str
) -> None:
    eventstore("import", "--user", "alice", chat_file)
    selection = ("--user", "alice", "--conversation", "c1", "--source", source)

    openai = eventstore("history", *selection, "--format", "openai")
    shown = json.loads(eventstore("history", *selection, "--json").stdout)
    then = json.loads(eventstore("history", *selection, "--as-of", "2", "--json").stdout)

    assert json.loads(openai.stdout) == CHAT
    assert list(shown[0]) == [
        "id", "position", "sender", "content", "tool_calls", "created_at", "edited_at",
    ]  # fmt: skip
    assert shown[1]["tool_calls"][0]["arguments"] == '{"a": 1.10, "a": 2}'
    assert shown[1]["tool_calls"][0]["status"] == "succeeded"
    assert [one["position"] for one in then] == [2]


@pytest.mark.parametrize(("suffix", "opener"), [(".gz", gzip.open), (".xz", lzma.open)])
def test_import_reads_compressed_files(
    eventstore: Command, tmp_path: Path, suffix: str, opener: Any
) -> None:
    path = tmp_path / f"chat.jsonl{suffix}"
    with opener(path, "wt", encoding="utf-8") as lines:
        lines.write(json.dumps({"id": 7, "messages": CHAT}) + "\n")

    done = json.loads(eventstore("import", "--users", "3", "--json", path).stdout)

    assert done["messages"] == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "chat.jsonl:2: is not JSON"),
        ("[]", "chat.jsonl:2: conversation: is a list; give a JSON object"),
        ('{"id": ["a"], "messages": []}', "chat.jsonl:2: id: is a list; give text or a whole"),
        ('{"id": true, "messages": []}', "chat.jsonl:2: conversation 'True': id: is a bool; give"),
        (
            '{"id": "x", "messages": [{"content": "a"}]}',
            "conversation 'x': messages[0]: is not an object with a",
        ),
        (
            '{"id": "x", "messages": [{"role": "user", "content": NaN}]}',
            "chat.jsonl:2: is not JSON",
        ),
        (
            '{"id": "x", "messages": [{"role": " ", "content": "a"}]}',
            "chat.jsonl:2: conversation 'x': messages[0].sender: has no visible character",
        ),
    ],
)
def test_import_names_a_bad_line_and_imports_the_others(
    eventstore: Command, chat_file: Path, line: str, message: str
) -> None:
    with chat_file.open("a", encoding="utf-8") as lines:
        lines.write(line + "\n" + json.dumps({"id": "c3", "messages": CHAT}) + "\n")

    done = eventstore("import", "--user", "alice", chat_file)
    again = eventstore("import", "--user", "alice", "--json", chat_file)

    assert done.returncode == again.returncode == 1
    assert f"not imported: {chat_file.parent}" in done.stderr
    assert message in done.stderr
    assert again.stderr == ""
    answer = json.loads(again.stdout)
    assert (answer["conversations"], answer["skipped"], answer["failed"]) == (3, 2, 1)
    (failure,) = answer["failures"]
    assert list(failure) == ["location", "key", "reason"]
    assert failure["location"].endswith("chat.jsonl:2")


def test_import_reads_an_export_again_a_week_later(eventstore: Command, tmp_path: Path) -> None:
    """An export is newest first; one conversation has grown, and one is new."""

    def export(*conversations: tuple[str, str, int]) -> Path:
        path = tmp_path / "conversations.json"
        given = [
            {
                "id": key,
                "title": f"About {key}",
                "created_at": created_at,
                "messages": [{"role": "user", "content": f"{key}{n}"} for n in range(count)],
            }
            for key, created_at, count in conversations
        ]
        path.write_text(json.dumps(given, indent=2), encoding="utf-8")
        return path

    old, older = ("b", "2024-01-06T08:00:00Z", 2), ("a", "2024-01-05T08:00:00Z", 2)
    run = ("import", "--user", "alice", "--json")
    first = json.loads(eventstore(*run, export(old, older)).stdout)
    newer = export(("c", "2024-01-07T08:00:00Z", 1), ("b", "2024-01-06T08:00:00Z", 3), older)
    would_be = json.loads(eventstore(*run, "--dry-run", newer).stdout)
    shown = eventstore("import", "--user", "alice", "--dry-run", newer).stdout.splitlines()
    assert [line.split() for line in shown[-2:-1]] == [["dry_run", "yes"]]
    second = json.loads(eventstore(*run, newer).stdout)

    assert (first["imported"], first["messages"]) == (2, 4)
    assert [second[name] for name in ("imported", "grown", "skipped", "messages")] == [1, 1, 1, 2]
    assert {**second, "dry_run": True, "seconds": 0} == {**would_be, "seconds": 0}
    with EventStore.connect() as store:
        listed = store.user("alice").conversations.list()
        # The list is by newest activity: `b` grew before `c`, which began later, was imported.
        assert [(one.key, one.title) for one in listed] == [
            ("c", "About c"), ("b", "About b"), ("a", "About a"),
        ]  # fmt: skip
        assert [one.content for one in store.user("alice").history("b")] == ["b0", "b1", "b2"]


def test_import_reads_the_exports_of_other_programs_and_their_branches(
    eventstore: Command, tmp_path: Path
) -> None:
    path = tmp_path / "all.json"
    path.write_text(json.dumps([CHATGPT, CLAUDE, OPEN_WEBUI, RESPONSES]), encoding="utf-8")
    run = ("import", "--users", "5", "--json", path)

    current = json.loads(eventstore(*run).stdout)
    every = json.loads(eventstore(*run, "--branches", "all").stdout)
    wrong = eventstore(*run, "--format", "claude")

    assert (current["imported"], current["failed"]) == (4, 0)
    assert (every["imported"], every["skipped"]) == (2, 4)
    assert (wrong.returncode, json.loads(wrong.stdout)["failed"]) == (1, 3)
    assert eventstore("verify").returncode == 0
    with EventStore.connect() as store:
        owners = {
            one.key: user for user in store.users() for one in store.user(user).conversations.list()
        }
    assert owners[CHATGPT["id"]] == owners[f"{CHATGPT['id']}#declined"]


def test_import_shows_the_first_of_many_failures(eventstore: Command, chat_file: Path) -> None:
    chat_file.write_text("{\n" + "[]\n" * 60, encoding="utf-8")

    done = eventstore("import", "--user", "alice", chat_file)

    assert done.returncode == 1
    assert done.stderr.count("not imported: ") == 51
    assert "not imported: 11 more conversations; --json lists all" in done.stderr


def test_import_names_the_line_of_an_erased_conversation(
    eventstore: Command, chat_file: Path
) -> None:
    eventstore("import", "--user", "alice", chat_file)
    eventstore("erase", "--user", "alice", "--ordered-by", "x", "--yes")

    done = eventstore("import", "--user", "alice", chat_file)

    assert done.returncode == 1
    assert "chat.jsonl:1: conversation 'c1': was erased; leave it out" in done.stderr


def test_import_refuses_other_content_under_an_imported_id_and_names_the_remedy(
    eventstore: Command, chat_file: Path
) -> None:
    eventstore("import", "--user", "alice", chat_file)
    chat_file.write_text(json.dumps({"id": "c1", "messages": CHAT[1:]}) + "\n", encoding="utf-8")

    refused = eventstore("import", "--user", "alice", chat_file)
    prefixed = eventstore("import", "--user", "alice", "--key-prefix", "b-", "--json", chat_file)

    assert refused.returncode == 1
    assert "--key-prefix" in refused.stderr
    assert json.loads(prefixed.stdout)["imported"] == 1


def test_a_conversation_of_over_a_thousand_events_is_imported_completely(
    eventstore: Command, tmp_path: Path
) -> None:
    path = tmp_path / "long.jsonl"
    messages = [{"role": "user", "content": f"message {number}"} for number in range(2500)]
    path.write_text(json.dumps({"id": "long", "messages": messages}) + "\n", encoding="utf-8")

    done = json.loads(eventstore("import", "--user", "alice", "--json", path).stdout)
    again = json.loads(eventstore("import", "--user", "alice", "--json", path).stdout)
    back = eventstore("history", "--user", "alice", "--conversation", "long", "--format", "openai")

    assert done["events"] == 2501
    assert again["skipped"] == 1
    assert json.loads(back.stdout) == messages
    assert eventstore("verify").returncode == 0


def test_verify_and_rebuild_report_drift_by_their_exit_status(
    eventstore: Command, chat_file: Path, admin: psycopg.Connection
) -> None:
    eventstore("import", "--user", "alice", chat_file)
    admin.execute("update eventstore.message set sender = 'mallory' where sender = 'user'")

    verified = eventstore("verify", "--json")
    checked = eventstore("rebuild", "--check", "--json")
    rebuilt = eventstore("rebuild", "--json")
    after = eventstore("verify", "--json")

    report = json.loads(verified.stdout)
    assert verified.returncode == checked.returncode == 1
    assert list(report) == [
        "users",
        "events",
        "erased",
        "anchors",
        "anchored",
        "anchored_at",
        "ok",
        "problems",
    ]
    assert list(report["problems"][0]) == ["kind", "user_id", "table", "key", "detail"]
    assert list(json.loads(rebuilt.stdout)) == [
        "users",
        "events",
        "rows",
        "changed",
        "resumed",
        "since",
        "seconds",
    ]
    assert rebuilt.returncode == after.returncode == 0


def test_audit_lists_calls_and_runs_them_again(
    eventstore: Command, tmp_path: Path, database_url: str
) -> None:
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        chat = alice.conversations.start(key="c1")
        for output in (3, 4):
            call = alice.tool_calls.request(chat.id, name="add", arguments={"a": 1, "b": 2})
            alice.tool_calls.succeed(call, output=output)
        alice.tool_calls.request(chat.id, name="add", arguments="{}")
    (tmp_path / "mine.py").write_text("tools = {'add': lambda a, b: a + b}\n", encoding="utf-8")

    listed = json.loads(eventstore("audit", "--json").stdout)
    pending = json.loads(eventstore("audit", "--json", "--status", "pending").stdout)
    again = eventstore("audit", "--user", "alice", "--run", "mine:tools", "--json")

    assert [one["status"] for one in listed] == ["succeeded", "succeeded", "pending"]
    assert len(pending) == 1
    assert [one["result"] for one in json.loads(again.stdout)] == ["same", "different", "skipped"]
    assert again.returncode == 1


def test_tail_shows_the_newest_events(eventstore: Command, chat_file: Path) -> None:
    eventstore("import", "--user", "alice", chat_file)

    lines = eventstore("tail", "--user", "alice", "-n", "2", "--json").stdout.splitlines()
    text = eventstore("tail", "--user", "alice", "--type", "ToolCallRequested").stdout

    assert [json.loads(line)["position"] for line in lines] == [5, 6]
    assert "ToolCallRequested" in text


def test_processes_check_and_rebuild_every_user_once(
    eventstore: Command, chat_file: Path, admin: psycopg.Connection
) -> None:
    for user in ("alice", "bob", "carol"):
        eventstore("import", "--user", user, chat_file)
    spoilt = admin.execute("update eventstore.message set sender = 'mallory' where sender = 'user'")

    checked = eventstore("rebuild", "--jobs", "2", "--check", "--json")
    rebuilt = eventstore("rebuild", "--jobs", "2", "--json")
    again = eventstore("rebuild", "--jobs", "2", "--check", "--json")

    counts = [json.loads(one.stdout) for one in (checked, rebuilt, again)]
    assert [one["changed"] for one in counts] == [spoilt.rowcount, spoilt.rowcount, 0]
    assert {(one["users"], one["events"], one["rows"]) for one in counts} == {
        (3, counts[0]["events"], counts[0]["rows"])
    }
    assert [one.returncode for one in (checked, rebuilt, again)] == [1, 0, 0]


def test_tasks_are_printed_as_of_a_position(eventstore: Command, database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        task = store.user("alice").tasks.create("Buy [bold]milk")
        store.user("alice").tasks.complete(task.id)

    now = json.loads(eventstore("tasks", "--user", "alice", "--completed", "--json").stdout)
    then = json.loads(
        eventstore("tasks", "--user", "alice", "--open", "--as-of", "1", "--json").stdout
    )
    text = eventstore("tasks", "--user", "alice").stdout

    assert now[0]["completed"] is True
    assert then[0]["title"] == "Buy [bold]milk"
    assert "Buy [bold]milk" in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("status", "--database", "postgresql://nobody@127.0.0.1:1/x"), 3, "connection"),
        (("status", "--database", "mysql://x"), 2, "not a PostgreSQL URL"),
        (("history", "--user", "a", "--conversation", "x"), 1, "not found"),
        (("history", "--user", "", "--conversation", "x"), 2, "user_id: has no visible"),
        (("tasks", "--user", "a", "--as-of", "yesterday"), 2, "--as-of: 'yesterday'"),
        (("tasks", "--user", "a", "--as-of", "2026-11-22T10:00:00"), 2, "without time zone"),
        (("tasks", "--user", "a", "--order", "size"), 2, "created, updated, title"),
        (("audit", "--run", "no_such_module:x"), 2, "give MODULE:NAME"),
        (("import", __file__), 2, "either --user USER or --users N"),
        (("import", "--user", "", __file__), 2, "user_id: has no visible"),
        (("import", "--user", "a", "/dev/null"), 2, "is not a file"),
        (("nonsense",), 2, "no such command"),
        (("migrate", "nonsense"), 2, "there are 0001, head and base"),
        (("migrate", ""), 2, "REVISION: is missing"),
        (("migrate", "--down"), 2, "REVISION: is missing"),
        (("status", "--database", "postgresql+asyncpg://a/b"), 2, "for the driver asyncpg"),
        (("status", "--database", "postgresql://a/b?pgbouncer=true"), 2, '"pgbouncer"; remove it'),
        (("verify", "--extensions", "wrong:extensions"), 2, "is no projector; decorate"),
    ],
)
def test_an_error_has_its_exit_status_and_a_clear_message(
    eventstore: Command, direct_url: str, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], status: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("EVENTSTORE_DATABASE_URL", direct_url)
    monkeypatch.setenv("EVENTSTORE_DEADLINE_SECONDS", "1")
    Path("wrong.py").write_text("extensions = {'projectors': [print]}", encoding="utf-8")

    done = eventstore(*arguments)

    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_was_never_migrated_is_reported_with_the_remedy(
    eventstore: Command, admin: psycopg.Connection, direct_url: str
) -> None:
    admin.execute("drop schema eventstore cascade")

    before = eventstore("status")
    migrated = eventstore("migrate", "--json", "--database", direct_url)
    after = eventstore("status")

    assert before.returncode == 2
    assert "eventstore migrate" in before.stderr
    assert json.loads(migrated.stdout)["before"] is None
    assert after.returncode == 0


def test_verify_reads_events_of_the_service_with_extensions(
    eventstore: Command, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from eventstore import Event\n"
        "class Snoozed(Event, type='Snoozed', stream_kind='task'):\n"
        "    days: int\n"
        "extensions = {'events': [Snoozed]}\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    snoozed = import_module("mine").Snoozed
    with EventStore.connect(database_url, events=[snoozed]) as store:
        task = store.user("alice").tasks.create("x")
        store.user("alice").append([NewEvent(stream_id=task.id, data=snoozed(days=2))])

    without = eventstore("verify", "--json")
    with_extensions = eventstore("verify", "--extensions", "mine:extensions", "--json")

    assert json.loads(without.stdout)["problems"][0]["kind"] == "unreadable"
    assert "Snoozed" in json.loads(without.stdout)["problems"][0]["detail"]
    assert json.loads(with_extensions.stdout)["ok"] is True


def test_a_list_that_is_cut_says_so_on_standard_error_and_goes_on_by_its_cursor(
    eventstore: Command, store: EventStore
) -> None:
    alice = store.user("alice")
    for key in ("one", "two", "three"):
        alice.conversations.start(key=key, title=f"Chat {key}")
        alice.tasks.create(f"Buy milk {key}")
        alice.messages.post("one", sender="user", content=f"milk, {key}")
    commands: dict[str, tuple[str, ...]] = {
        "tasks": ("tasks", "--user", "alice"),
        "found tasks": ("tasks", "--user", "alice", "--search", "mil"),
        "conversations": ("conversations", "--user", "alice"),
        "history": ("history", "--user", "alice", "--conversation", "one"),
        "openai": ("history", "--user", "alice", "--conversation", "one", "--format", "openai"),
        "search": ("search", "MILK", "--user", "alice"),
        "one conversation": ("search", "milk", "--user", "alice", "--conversation", "one"),
    }

    for name, command in commands.items():
        text = eventstore(*command, "--limit", 2)
        shown = eventstore(*command, "--limit", 2, "--json")
        cursor = json.loads(shown.stderr)["next"]
        rest = eventstore(*command, "--after", cursor, "--json")

        assert text.stderr == f"more follow: --after {cursor}\n", name
        assert [len(json.loads(one.stdout)) for one in (shown, rest)] == [2, 1], name
        assert json.loads(rest.stderr) == {"next": None}
        assert eventstore(*command).stderr == ""
        refused = eventstore(*command, "--after", cursor[1:])
        assert (refused.returncode, refused.stderr.split(";")[0]) == (
            2, "error: after: is no cursor of this list",
        )  # fmt: skip

    newest = eventstore("tail", "--user", "alice", "-n", 4, "--json")
    before = eventstore(
        "tail", "--user", "alice", "-n", 100, "--after", json.loads(newest.stderr)["next"], "--json"
    )
    lines = (before.stdout + newest.stdout).splitlines()
    assert [json.loads(line)["position"] for line in lines] == list(range(1, 10))
    assert eventstore("tail", "--user", "alice", "-f", "--after", "x").returncode == 2
    assert "Chat three" in eventstore("conversations", "--user", "alice", "--active").stdout
    assert "no conversations" in eventstore("conversations", "--user", "bob").stdout
    assert "milk, two" in eventstore("search", "two", "--user", "alice").stdout
