"""The tests that docs/testing.md shows pass, as a service would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.project.test_docs import ROOT, blocks, first_column, sections
from tests.support.server import Server

PAGE = ROOT / "docs" / "testing.md"


def test_the_tests_of_the_page_pass_at_a_url(server: Server, tmp_path: Path) -> None:
    code = "".join(one.code for one in blocks(PAGE) if one.language == "python")
    (tmp_path / "test_page.py").write_text(code, encoding="utf-8")
    others = {name: value for name, value in os.environ.items() if "EVENTSTORE_" not in name}
    url = {"EVENTSTORE_TEST_DATABASE_URL": server.direct_url("postgres")}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "test_page.py"],
        cwd=tmp_path,
        # The plugins of this project's own tests take seconds to import.
        env=others | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | url,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stdout
    assert f"{code.count('def test_')} passed" in done.stdout


def test_the_page_names_the_fixtures_and_the_blocks() -> None:
    from eventstore import testing
    from eventstore.testing import plugin

    parts = sections(PAGE)
    assert sorted(first_column(parts["Fixtures"], "fixture")) == sorted(plugin.__all__)
    named = {one.partition("(")[0] for one in first_column(parts["Faults"], "block")}
    assert named == {one for one in vars(testing.Faults) if one[0] != "_"} - {"close"}
