"""Retired words do not come back: one word has one meaning, and the glossary says which."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("eventstore", "projections", "migrations", "tests", "benchmarks", "examples")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

RETIRED = {
    "colour": "sync and async",
    "conductor": "interpreter",
    "conduct": "interpret",
    "lent": "leased",
    "lend": "lease",
    "mend": "repair",
    "mended": "repaired",
    "mending": "repair",
    "instant": "timestamp",
    "instants": "timestamps",
    "fact_of": "envelope_of",
    "Fact": "EventEnvelope",
    "Cut": "PointInTime",
    "Blocking": "sync_method",
    "Awaiting": "async_method",
    "Undo": "Rollback",
    "Work": "UnitOfWork",
    "Seen": "DecisionState",
    "keyed_position": "existing_position",
    "jsontext": "json_codec",
    "told": "report, detail, reason, message",
    "kept": "normalized, stored, retained",
    "whole": "with_nulls, complete",
    "take": "coerce",
    "among": "keys_predicate",
    "see": "apply, check, read",
    "must": "require_promise",
    "opened": "open_store",
    "examined": "diagnose",
    "asked": "confirm",
    "counted": "pluralize",
}
"""Each with the word to use instead."""


def defined_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the names that a module gives to things, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_named_by_a_retired_word(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}; say {RETIRED[name.strip('_')]}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] == folder
        for name, line in defined_names(ast.parse(path.read_text(encoding="utf-8")))
        if name.strip("_") in RETIRED
    ]

    assert found == []


def test_no_module_is_named_by_a_retired_word() -> None:
    assert [path for path in SOURCES if {*path.stem.split("_")} & RETIRED.keys()] == []


def test_the_documentation_names_nothing_by_a_retired_word() -> None:
    found = [
        f"{page.name}: {name}"
        for page in PAGES
        for name in re.findall(r"`(\w+)(?:\(.*?\))?`", page.read_text(encoding="utf-8"))
        if name in RETIRED
    ]

    assert found == []


def test_the_glossary_has_each_word_once() -> None:
    text = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")

    words = re.findall(r"^\| \*\*([\w ]+)\*\* \|", text, re.MULTILINE)

    assert {"user", "event", "log", "position", "append", "projector", "replay"} <= {*words}
    assert len(words) == len({*words})
    assert not {*words} & RETIRED.keys()
