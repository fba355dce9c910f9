"""
The documentation is true: its examples and code blocks run, its names, options and links exist.

The blocks of a document that are marked ```python run in order and in one namespace, on a migrated
database. Blocks that are marked ```python no-run or ```text do not run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple, cast

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import eventstore
import projections
from eventstore import Settings
from eventstore.cli.app import app
from eventstore.events.json_codec import loads
from eventstore.store.commands.conversations import Conversations
from eventstore.store.commands.messages import Messages
from eventstore.store.commands.tasks import Tasks
from eventstore.store.commands.tool_calls import ToolCalls
from eventstore.store.commands.turns import Turns
from projections.models.tool_call import ToolCallView
from tests.support.logins import make_logins
from tests.support.server import Server

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md")])


class Block(NamedTuple):
    line: int
    language: str
    code: str


def blocks(document: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a document, each with the line where its code begins."""
    fence = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
    text = document.read_text(encoding="utf-8")
    for found in fence.finditer(text):
        yield Block(text.count("\n", 0, found.start(2)) + 1, found[1].strip(), found[2])


def prose(document: Path) -> str:
    """Return a document with its fenced blocks emptied, so that line numbers stay the same."""
    text = document.read_text(encoding="utf-8")
    return re.sub(
        r"^```.*\n(?:.*\n)*?^```$",
        lambda found: "\n" * found[0].count("\n"),
        text,
        flags=re.MULTILINE,
    )


def sections(document: Path) -> dict[str, str]:
    """Return the text under each second-level heading, by heading without its backticks."""
    parts = re.split(r"^## (.*)\n", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip((one.replace("`", "") for one in parts[1::2]), parts[2::2], strict=True))


def first_column(text: str, heading: str = ".*") -> list[str]:
    """Return the code names in the first column of the tables whose first heading matches."""
    tables = re.findall(rf"^\| {heading} \|.*\n\|-.*\n((?:\|.*\n)*)", text, re.MULTILINE)
    return [name for rows in tables for name in re.findall(r"^\| `([^`]+)`", rows, re.MULTILINE)]


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


WITH_CODE = [one for one in DOCUMENTS if any(block.language == "python" for block in blocks(one))]
GROUP = cast("Any", get_command(app))
COMMANDS: dict[str, Any] = {
    name: GROUP.get_command(None, name) for name in GROUP.list_commands(None)
}
"""Typed as Any, because newer releases of typer have their own copy of click."""
CLI = ROOT / "docs" / "cli.md"
HOW = ROOT / "docs" / "how-it-works.md"
PYTHON = ROOT / "docs" / "python.md"


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_an_example_runs(example: Path, database_url: str) -> None:
    done = run(example, {"EVENTSTORE_DATABASE_URL": database_url})

    assert done.returncode == 0, done.stderr
    assert done.stdout
    # What is weaker than it should be is seen by default; the tests' server does not fsync.
    weaker = [line.split(": ")[1] for line in done.stderr.splitlines()]
    assert weaker == ["fsync", "postgres"]


@pytest.mark.slow  # each starts a server of its own
@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_an_example_runs_without_a_database_url(example: Path) -> None:
    done = run(example, {})

    assert done.returncode == 0, done.stderr
    assert "verified: True" in done.stdout
    assert not done.stderr


def run(example: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    others = {name: value for name, value in os.environ.items() if "EVENTSTORE_" not in name}
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(example)],
        env=others | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("logins", ["owner", "of docs/isolation.md"])
@pytest.mark.parametrize("document", WITH_CODE, ids=name_of)
def test_the_code_of_a_document_runs_from_top_to_bottom_and_again(
    document: Path,
    logins: str,
    server: Server,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = database_url
    if logins != "owner":
        service, operations, privacy = make_logins(server, database_url)
        monkeypatch.setenv("OPERATIONS_DATABASE_URL", operations)
        monkeypatch.setenv("PRIVACY_DATABASE_URL", privacy)
    monkeypatch.setenv("EVENTSTORE_DATABASE_URL", service)

    for _ in range(2):
        namespace: dict[str, Any] = {"__name__": "__main__"}
        for block in blocks(document):
            if block.language == "python":
                # With blank lines before it, a traceback names the line of the document.
                # Annotations are values there, as they are for a reader.
                code = compile(
                    "\n" * (block.line - 1) + block.code,
                    name_of(document),
                    "exec",
                    dont_inherit=True,
                )
                exec(code, namespace)


def test_the_readme_and_the_tutorial_have_code_that_runs() -> None:
    assert {"README.md", "docs/tutorial.md"} <= {name_of(one) for one in WITH_CODE}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_cli_page_names_every_option_of_a_command_and_no_other(command: str) -> None:
    parameters = COMMANDS[command].params
    options = {
        name
        for parameter in parameters
        if parameter.param_type_name == "option"
        for name in (*parameter.opts, *parameter.secondary_opts)
    }

    rows = first_column(sections(CLI)[f"eventstore {command}"], ".*option")

    assert {name for row in rows for name in row.split() if name.startswith("-")} == options
    arguments = [one.name.upper() for one in parameters if one.param_type_name == "argument"]
    assert all(any(row.startswith(name) for row in rows) for name in arguments)


def test_the_cli_page_has_a_section_for_every_command_and_no_other() -> None:
    documented = [one for one in sections(CLI) if one.startswith("eventstore ")]

    assert documented == [f"eventstore {command}" for command in COMMANDS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_command_line_in_a_document_has_existing_options(document: Path) -> None:
    shown = "".join(block.code for block in blocks(document) if block.language == "sh")

    for command, rest in re.findall(r"^(?:.* )?eventstore ([a-z]+)([^#\n]*)", shown, re.MULTILINE):
        names = {name for one in COMMANDS[command].params for name in one.opts} | {"--help"}
        assert set(re.findall(r"(?<!\S)-[a-z-]+", rest)) <= names, command


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "doctor",
        "import",
        "history",
        "tasks",
        "rebuild",
        "verify",
        "anchor",
        "audit",
        "tail",
        "feeds",
        "erase",
    ],
)
def test_the_cli_page_names_every_field_that_a_command_prints(
    command: str, database_url: str, tmp_path: Path
) -> None:
    chat = tmp_path / "chat.jsonl"
    sample = next(block.code for block in blocks(CLI) if block.language == "json")
    chat.write_text(sample.replace("\n", " "), encoding="utf-8")
    options = ["--database", database_url, "--json"]
    imported = CliRunner().invoke(app, ["import", str(chat), "--user", "alice", *options])
    assert imported.exit_code == 0, imported.output
    with eventstore.EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("Buy milk")
        store.subscribe("search", lambda _: None).catch_up()
    arguments = {
        "import": [str(chat), "--user", "alice"],
        "history": ["--user", "alice", "--conversation", "session-7"],
        "tasks": ["--user", "alice"],
        "anchor": [str(tmp_path / "heads.jsonl")],
        "tail": ["--user", "alice", "--lines", "1"],
        "erase": ["--user", "alice", "--ordered-by", "privacy desk", "--yes"],
    }

    printed = CliRunner().invoke(app, [command, *arguments.get(command, []), *options])

    answer = loads(printed.stdout)
    fields = set(answer[0] if isinstance(answer, list) else answer)
    documented = first_column(sections(CLI)[f"eventstore {command}"], "field")
    assert set(documented) == fields


def test_the_cli_page_names_every_member_of_an_export(database_url: str) -> None:
    with eventstore.EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("Buy milk")

    printed = CliRunner().invoke(app, ["export", "--user", "alice", "--database", database_url])

    document = loads(printed.stdout)
    section = sections(CLI)["eventstore export"]
    assert first_column(section, "field") == list(document)
    assert first_column(section, "of an event") == list(document["events"][0])


@pytest.mark.skipif(
    not all(map(shutil.which, ("openssl", "xxd", "sha256sum"))), reason="checks with these tools"
)
def test_the_documented_commands_verify_the_signature_of_an_anchor(
    database_url: str, tmp_path: Path
) -> None:
    with eventstore.EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("Buy milk")
    signing = [block.code for block in blocks(HOW) if "openssl" in block.code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    done = subprocess.run(
        ["sh", "-e", "-c", "".join(signing)],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "EVENTSTORE_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert "1 anchored head found again: all is well" in done.stdout
    assert "Signature Verified Successfully" in done.stdout


@pytest.mark.parametrize("package", [eventstore, projections], ids=lambda one: str(one.__name__))
def test_the_python_page_names_exactly_the_exports_of_a_package(package: Any) -> None:
    documented = first_column(sections(PYTHON)[package.__name__])

    assert sorted(documented) == sorted(package.__all__)


def test_the_python_page_names_exactly_the_members_of_a_user() -> None:
    documented = first_column(sections(PYTHON)["What a user can do"])

    parts = {
        "tasks": Tasks,
        "conversations": Conversations,
        "messages": Messages,
        "tool_calls": ToolCalls,
        "turns": Turns,
    }
    offered = [
        f"{part}.{name}" for part, kind in parts.items() for name in vars(kind) if name[0] != "_"
    ]
    own = [name for name in dir(eventstore.User) if name[0] != "_"]
    assert sorted(documented) == sorted([*offered, *own])


def test_the_python_page_names_exactly_the_members_of_a_store() -> None:
    documented = first_column(sections(PYTHON)["What a store can do"])

    assert sorted(documented) == sorted(
        name for name in vars(eventstore.EventStore) if name[0] != "_"
    )


def test_the_python_page_names_every_setting_with_its_default() -> None:
    rows = re.findall(
        r"^\| `EVENTSTORE_(\w+)` \| (.*?) \|", sections(PYTHON)["Settings"], re.MULTILINE
    )

    defaults = {
        name.upper(): default_text(field.default) for name, field in Settings.model_fields.items()
    }
    assert dict(rows) == defaults


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_variable_that_a_document_names_is_a_setting(document: Path) -> None:
    named = set(re.findall(r"\bEVENTSTORE_(?!TEST_)(\w+)", document.read_text()))

    assert named <= {"EXTENSIONS", *map(str.upper, Settings.model_fields)}


def default_text(default: float | str | None) -> str:
    """Return a setting's default as the page writes it."""
    match default:
        case None:
            return "none"
        case str():
            return default
    return f"{default:g}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_within_the_documentation_has_a_target(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(document))

    for target in targets:
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def anchors(document: Path) -> set[str]:
    """Return the anchors that a document's headings get where Markdown is shown."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).strip().replace(" ", "-") for one in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_line_of_prose_is_one_sentence(document: Path) -> None:
    lines = [
        line
        for line in re.sub(r"`[^`]*`", "code", prose(document)).splitlines()
        if not line.startswith(("|", "#"))
    ]

    assert [line for line in lines if re.search(r"[^.\d][.!?] [A-Z]", line)] == []


def test_the_python_page_shows_the_error_tree_of_the_code() -> None:
    (tree,) = (block.code for block in blocks(PYTHON) if block.language == "text")

    assert indent(tree, "    ") in str(eventstore.errors.__doc__)


DOCUMENTED_ELSEWHERE = {
    "AuditEntry": {one.name for one in fields(ToolCallView)} | {"conversation_id"},
}
VALUES = re.findall(
    r"^\| `(\w+)` \| `([\w.]+)` \| (.*) \|$", PYTHON.read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.mark.parametrize(("name", "module", "cell"), VALUES, ids=[name for name, *_ in VALUES])
def test_the_python_page_names_every_field_of_a_value(name: str, module: str, cell: str) -> None:
    kind = getattr(import_module(module), name)

    missing = {field.name for field in fields(kind)} - {*re.findall(r"`(\w+)`", cell)}

    assert missing - DOCUMENTED_ELSEWHERE.get(name, set()) == set()
