"""Leaves out the tests that are listed, and counts those in which what is ours was used."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def left_out(listed: Path) -> dict[str, str]:
    """Return why tests are left out, by a pattern of their names."""
    groups = tomllib.loads(listed.read_text(encoding="utf-8"))["group"]
    return {name: group["reason"] for group in groups for name in group["tests"]}


class Report:
    """
    A plugin of pytest.

    :param listed: the file that lists what is left out.
    :param uses: how often what is ours was used so far, in all tests.
    :param used: what that is, in the plural.
    :param unused: what the tests do that come through without it.
    """

    def __init__(self, listed: Path, uses: Callable[[], int], used: str, unused: str) -> None:
        self.patterns = left_out(listed)
        self.uses = uses
        self.used = used
        self.unused = unused
        self.results = {"passed": 0, "failed": 0, "skipped": 0}
        self.without = 0
        self.other = {"failed": 0, "skipped": 0}
        self.not_found = set(self.patterns)
        self.left_out = 0
        self.before = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = []
        for item in items:
            found = [name for name in self.patterns if re.search(name, item.nodeid)]
            self.not_found -= set(found)
            if found:
                self.left_out += 1
            else:
                chosen.append(item)
        items[:] = chosen

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Any:
        self.before = self.uses()
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        if self.uses() != self.before:
            self.results[report.outcome] += 1
        elif report.outcome == "passed":
            self.without += 1
        else:
            self.other[report.outcome] += 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        done, other = self.results, self.other
        terminalreporter.write_line(
            f"{self.used}: {sum(done.values())} tests run, {done['passed']} passed, "
            f"{done['failed']} failed, {done['skipped']} skipped; {self.left_out} left out; "
            f"{self.without} others passed, {other['failed']} failed and {other['skipped']} were "
            f"skipped, which {self.unused}"
        )
        for name in sorted(self.not_found):
            terminalreporter.write_line(f"left out, but not found: {name}")
