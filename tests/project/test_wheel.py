"""The wheel works in an empty environment: it has the migrations, the types and the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# In one process, so that the wheel is built once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


def run(*arguments: object, cwd: Path, **environment: object) -> str:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EVENTSTORE_", "VIRTUAL_ENV", "PYTHON"))
    }
    done = subprocess.run(
        list(map(str, arguments)),
        cwd=cwd,
        env=inherited | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def uv() -> str:
    found = os.environ.get("UV") or shutil.which("uv")
    assert found, "install uv: it is what the README asks for"
    return found


@pytest.fixture(scope="module")
def wheel(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(uv, "build", "--wheel", "--out-dir", folder, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


class Installation:
    """A new environment that holds the wheel, some extras, and what these need; nothing else."""

    def __init__(self, folder: Path, uv: str, wheel: Path) -> None:
        self._folder, self._uv, self._wheel = folder, uv, wheel

    def install(self, extras: str) -> None:
        run(self._uv, "venv", "--clear", "--python", "3.13", self._folder / "venv", cwd=ROOT)
        package = f"{self._wheel}[{extras}]"
        run(self._uv, "pip", "install", "--python", self._program("python"), package, cwd=ROOT)

    def run(self, program: str, *arguments: object, cwd: Path) -> str:
        # All environments have one place, so what was compiled for one serves the next.
        compiled = self._folder / "compiled"
        return run(self._program(program), *arguments, cwd=cwd, PYTHONPYCACHEPREFIX=compiled)

    def _program(self, name: str) -> Path:
        return self._folder / "venv" / "bin" / name


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, uv: str, wheel: Path) -> Installation:
    return Installation(tmp_path_factory.mktemp("installation"), uv, wheel)


def test_the_wheel_holds_the_packages_their_types_and_the_migrations(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert "eventstore/migrations/sql/0001_append_events.sql" in names
    assert "eventstore/py.typed" in names
    assert "projections/py.typed" in names
    top_level = {name.split("/", maxsplit=1)[0] for name in names}
    assert {one for one in top_level if not one.endswith(".dist-info")} == {
        "eventstore",
        "projections",
    }
    assert not [name for name in names if "__pycache__" in name]


def test_an_installed_wheel_migrates_stores_and_verifies(
    installation: Installation, tmp_path: Path
) -> None:
    installation.install("embedded")

    output = installation.run("eventstore", "demo", "--json", cwd=tmp_path)

    steps = {step["step"]: step for step in json.loads(output)["steps"]}
    assert steps["Reconstruct"]["equal"] is True
    assert steps["Rebuild"]["changed"] == 2


def test_the_testing_kit_of_an_installed_wheel_gives_each_test_a_store(
    installation: Installation, tmp_path: Path
) -> None:
    installation.install("testing")
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    first = page.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "test_service.py").write_text(first, encoding="utf-8")

    output = installation.run(
        "python", "-m", "pytest", "-W", "error", "test_service.py", cwd=tmp_path
    )

    assert "2 passed" in output


@pytest.mark.parametrize("extra", ["fastapi", "mcp", "agents", "pydantic-ai"])
def test_the_extra_of_an_adapter_is_all_that_it_needs(
    installation: Installation, extra: str, tmp_path: Path
) -> None:
    installation.install(extra)

    module = extra.replace("-", "_")
    code = f"from eventstore.integrations.{module} import __all__; print(__all__)"
    loaded = installation.run("python", "-c", code, cwd=tmp_path)

    assert loaded.startswith("[")
