"""On a disk that is full, writes fail as such and leave nothing, reads go on, and writes resume."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from eventstore import StorageFull, User
from tests.support.drivers import open_store
from tests.support.server import Server

SPACE = "6m"
MORE_SPACE = "64m"
LARGE = 400_000


def mount(folder: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def small_disk(server: Server) -> Iterator[Path]:
    """A folder on a disk of its own, which PostgreSQL may write to."""
    folder = server.folder / "small"
    folder.mkdir()
    try:
        mount(folder, f"size={SPACE}")
    except (OSError, subprocess.CalledProcessError):
        folder.rmdir()
        pytest.skip("needs the right to mount a disk of its own")
    owner = (server.folder / "data").stat()
    os.chown(folder, owner.st_uid, owner.st_gid)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


@pytest.fixture
def narrow_url(server: Server, small_disk: Path) -> Iterator[str]:
    """The URL of a database whose events are on that disk."""
    url = server.create_database()
    server.execute(f"create tablespace small location '{small_disk}'")
    with psycopg.connect(server.direct(url), autocommit=True) as admin:
        admin.execute("alter table eventstore.event set tablespace small")
    yield url
    server.drop_database(url)
    server.execute("drop tablespace small")


def fill(alice: User, chat: UUID, written: list[str]) -> None:
    """Post until the disk is full, and note what was acknowledged."""
    while len(written) < 100:
        said = os.urandom(LARGE // 2).hex()  # PostgreSQL cannot compress it away
        alice.messages.post(chat, sender="user", content=said)
        written.append(said)


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_a_full_disk_stops_writes_alone_and_only_as_long_as_it_is_full(
    narrow_url: str, small_disk: Path, driver: str
) -> None:
    with open_store(driver, narrow_url) as store:
        alice = store.user("alice")
        chat = alice.conversations.start()
        written: list[str] = []
        with pytest.raises(StorageFull, match=r"could not extend file .* reading still works"):
            fill(alice, chat.id, written)
        assert written
        with suppress(StorageFull):  # the last page may still take something small
            alice.messages.post(chat.id, sender="user", content="small")
            written.append("small")

        assert [one.content for one in alice.history(chat.id, limit=200)] == written
        assert store.health().ok
        assert store.status().bytes > LARGE
        assert store.verify().ok

        mount(small_disk, f"remount,size={MORE_SPACE}")
        last = alice.messages.post(chat.id, sender="user", content=os.urandom(LARGE // 2).hex())
        assert alice.history(chat.id, limit=200)[-1] == last
        assert store.verify().ok
