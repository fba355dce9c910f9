"""Errors, warnings and cut texts of commands: one style, whole words, JSON for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from eventstore import ConfigurationError, EventStore
from eventstore.cli.output import shorten
from eventstore.database.settings import load_settings, unknown_settings
from tests.support.command import Command


@pytest.mark.parametrize(
    ("arguments", "status", "kind", "path"),
    [
        (("history", "--user", "a", "--conversation", "x"), 1, "NotFound", None),
        (("tasks", "--user", "a", "--as-of", "noon"), 2, "InvalidInput", "--as-of"),
        (("status", "--database", "postgresql://127.0.0.1:1/x"), 3, "Unavailable", None),
        (("tasks",), 2, "Error", None),
        (("tasks", "--nonsense"), 2, "Error", None),
        (("nonsense",), 2, "Error", None),
    ],
)
@pytest.mark.usefixtures("short_deadline")
def test_an_error_is_one_line_for_people_and_one_object_for_programs(
    eventstore: Command, arguments: tuple[str, ...], status: int, kind: str, path: str | None
) -> None:
    for_people = eventstore(*arguments)
    for_programs = eventstore(*arguments, "--json")

    assert (for_people.returncode, for_programs.returncode) == (status, status)
    assert for_people.stderr.startswith("error: ")
    assert for_people.stderr.count("\n") == for_programs.stderr.count("\n") == 1
    report = json.loads(for_programs.stderr)["error"]
    assert report["type"] == kind
    assert report.get("path") == path
    assert for_people.stderr == f"error: {report['message']}\n" or "nonsense" in arguments
    assert for_programs.stdout == ""


def test_a_wrong_option_is_answered_with_where_the_right_ones_are(eventstore: Command) -> None:
    done = eventstore("tasks", "--user", "a", "--nonsense")

    assert "no such option: --nonsense" in done.stderr
    assert done.stderr.endswith("see `eventstore tasks --help`\n")


def test_no_command_at_all_is_answered_with_the_help(eventstore: Command) -> None:
    done = eventstore()

    assert (done.returncode, done.stderr) == (2, "")
    assert "Usage" in done.stdout


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (("tasks", "--user", "nobody"), "no tasks\n"),
        (("audit",), "no tool calls\n"),
        (("history", "--user", "alice", "--conversation", "empty"), "no messages\n"),
    ],
)
def test_an_empty_answer_says_so(
    eventstore: Command, database_url: str, command: tuple[str, ...], answer: str
) -> None:
    with EventStore.connect(database_url) as store:
        store.user("alice").conversations.start(key="empty")

    assert eventstore(*command).stdout == answer
    assert json.loads(eventstore(*command, "--json").stdout) == []


def test_an_event_is_one_line_whatever_the_terminal_and_its_text_end_with_a_word(
    database_url: str,
) -> None:
    said = "Please buy " + "organic bananas and " * 30
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        chat = alice.conversations.start(title="Groceries")
        alice.messages.post(chat.id, sender="user", content=said)
        alice.tool_calls.request(chat.id, name="buy", arguments={"what": said})

    def lines(*command: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "eventstore.cli", *command, "--user", "alice"],
            env=os.environ | {"EVENTSTORE_DATABASE_URL": database_url, "COLUMNS": "80"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    tail, audit = lines("tail"), lines("audit")

    assert len(tail) == 4
    assert len(audit) == 3
    for line in (tail[1], audit[1]):
        beginning = line.split("Please buy ")[1].split("…")[0]
        assert beginning.split()[-1] in {"organic", "bananas", "and"}


FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Buy milk", "Buy milk"),
        ("Buy milk and", "Buy milk and"),
        ("Buy milk and eggs", "Buy milk…"),
        ("Buy\nmilk and eggs", "Buy milk…"),
        ("x" * 13, "x" * 11 + "…"),
        ("牛乳を買う二本", "牛乳を買う…"),
        (f"01234567890{FAMILY}", "01234567890…"),
        ("0123456789e\u0301e\u0301e", "0123456789e\u0301…"),
        ("x" * 1000, "x" * 11 + "…"),
    ],
    ids=ascii,
)
def test_a_long_text_is_cut_between_words_and_characters(text: str, shown: str) -> None:
    assert shorten(text, 12) == shown
    assert cell_len(shorten(text, 12)) <= 12


@pytest.mark.parametrize("command", [("tasks", "--user", "a"), ("verify", "--jobs", "2")])
def test_a_setting_that_does_not_fit_is_refused_by_every_command(
    eventstore: Command, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("EVENTSTORE_POOL_MAX_SIZE", "zero")

    done = eventstore(*command)

    assert done.returncode == 2
    assert "EVENTSTORE_POOL_MAX_SIZE: " in done.stderr
    with pytest.raises(ConfigurationError, match="EVENTSTORE_POOL_MAX_SIZE"):
        load_settings(pool_max_size=3)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("EVENTSTORE_POOL_MAXSIZE", "EVENTSTORE_POOL_MAX_SIZE"),
        ("EVENTSTORE_DATABASE_UR", "EVENTSTORE_DATABASE_URL"),
        ("EVENTSTORE_URL", "EVENTSTORE_DATABASE_URL"),
        ("eventstore_deadline", "EVENTSTORE_DEADLINE_SECONDS"),
    ],
)
def test_a_misspelt_setting_is_warned_about_with_the_right_name(name: str, meant: str) -> None:
    (warning,) = unknown_settings({name: "1"})

    assert warning == f"{name} is no setting of the store and has no effect; did you mean {meant}?"


def test_right_settings_and_variables_of_others_are_not_warned_about() -> None:
    names = ["EVENTSTORE_DATABASE_URL", "eventstore_deadline_seconds", "EVENTSTORE_EXTENSIONS"]
    others = ["EVENTSTORE_TEST_POSTGRES", "PATH", "MY_EVENTSTORE_URL", "_EVENTSTORE_COMPLETE"]

    assert list(unknown_settings(dict.fromkeys([*names, *others], "1"))) == []


def test_a_misspelt_setting_is_named_once_by_commands_and_by_the_store(
    eventstore: Command,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("EVENTSTORE_POOL_MAX_SIZ", "1")

    done = eventstore("tasks", "--user", "a")
    for _ in range(2):
        EventStore.connect(database_url).close()

    assert done.returncode == 0
    assert done.stderr.startswith("warning: EVENTSTORE_POOL_MAX_SIZ is no setting")
    assert caplog.text.count("EVENTSTORE_POOL_MAX_SIZ is no") == 1


def test_what_is_weaker_than_promised_is_seen_without_any_logging_configured(
    database_url: str, tmp_path: Path
) -> None:
    program = tmp_path / "service.py"
    program.write_text(
        "from eventstore import EventStore\nfor _ in range(2):\n    EventStore.connect().close()\n",
        encoding="utf-8",
    )

    done = subprocess.run(
        [sys.executable, str(program)],
        env=os.environ | {"EVENTSTORE_DATABASE_URL": database_url},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )

    assert done.stderr.count("is a superuser") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_commands(
    eventstore: Command, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    # The shell is that of the process above this one, which in a test may be none.
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))

    done = eventstore("--show-completion")

    assert done.returncode == 0
    assert "eventstore" in done.stdout
