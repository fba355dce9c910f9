"""Conversations are found in files of every form, exactly, in order, and with bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tracemalloc
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import InvalidInput
from eventstore.events.json_codec import loads
from eventstore.imports import json_values
from eventstore.imports.export_files import ExportFiles
from eventstore.imports.formats import Branches, Format
from eventstore.imports.json_values import find_values
from tests.imports.samples import CHATGPT, CLAUDE, OPEN_WEBUI, RESPONSES

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def texts(content: bytes) -> list[tuple[str, bytes]]:
    found = list(find_values(io.BytesIO(content)))
    assert all(content[one.start :].startswith(one.text) for one in found)
    return [(one.location, one.text.strip()) for one in found]


@pytest.fixture(params=[1, 3, 1 << 18])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let values span the pieces in which a file is read."""
    monkeypatch.setattr(json_values, "_CHUNK", request.param)


@given(st.lists(values, max_size=5), st.sampled_from([None, 1]), st.booleans(), st.data())
def test_the_values_of_an_array_are_found_however_it_is_written(
    given_values: list[Any], indent: int | None, ascii_only: bool, data: st.DataObject
) -> None:
    content = json.dumps(given_values, indent=indent, ensure_ascii=ascii_only)
    encoded = content.encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "_CHUNK", data.draw(st.integers(1, 40)))
        found = list(find_values(io.BytesIO(encoded)))

    assert [json.loads(one.text.decode("utf-8", "surrogatepass")) for one in found] == given_values
    assert [one.location for one in found] == [f"[{n}]" for n in range(len(given_values))]
    assert all(one.complete for one in found)
    assert all(encoded[one.start :].startswith(one.text) for one in found)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b" \n\n", []),
        (b"[]", []),
        (b"[ ]\n", []),
        (b'{"a": 1}\n\n{"b": "\\"}"}\n', [(":1", b'{"a": 1}'), (":3", b'{"b": "\\"}"}')]),
        (b'\xef\xbb\xbf{"a": 1}', [(":1", b'{"a": 1}')]),
        (b'\xef\xbb\xbf\n[ {"a": 1} ,[2]]', [("[0]", b'{"a": 1}'), ("[1]", b"[2]")]),
        (b'{\n "a": {"b": 1}\n}\n', [("", b'{\n "a": {"b": 1}\n}')]),
        (b'{\n "a": 1\n}\n{\n "a": 2\n}', [("", b'{\n "a": 1\n}'), ("[1]", b'{\n "a": 2\n}')]),
        (b'{"cut\n{"a": 1}\n', [(":1", b'{"cut'), (":2", b'{"a": 1}')]),
        (b"{\n[]\n", [(":1", b"{"), (":2", b"[]")]),
        (b'{\n"a": 1\n}', [("", b'{\n"a": 1\n}')]),
        (b'[{"a": "]"}, 5, "x,y"]', [("[0]", b'{"a": "]"}'), ("[1]", b"5"), ("[2]", b'"x,y"')]),
    ],
)
def test_lines_arrays_and_indented_values_are_told_apart(
    content: bytes, found: list[tuple[str, bytes]]
) -> None:
    assert texts(content) == found


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(
    ("content", "complete", "cut"),
    [
        (b'[{"a": 1}, {"b": "', ["[0]"], ["[1]"]),
        (b'[{"a": 1}', ["[0]"], ["[1]"]),
        (b'[{"a": 1},', ["[0]"], ["[1]"]),
        (b'{\n "a": [', [], [""]),
    ],
)
def test_where_a_file_is_cut_off_is_found(
    content: bytes, complete: list[str], cut: list[str]
) -> None:
    found = list(find_values(io.BytesIO(content)))

    assert [one.location for one in found if one.complete] == complete
    assert [one.location for one in found if not one.complete] == cut


def test_an_array_far_larger_than_its_values_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    value = json.dumps({"text": "[" * 200_000})
    with path.open("w") as file:
        file.write("[" + ",\n".join([value] * 200) + "]")

    tracemalloc.start()
    with path.open("rb") as binary:
        count = sum(1 for _ in find_values(binary))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 200
    assert path.stat().st_size > 40_000_000
    assert peak < 5_000_000


def write(path: Path, content: Any, *, indent: int | None = None) -> Path:
    path.write_text(json.dumps(content, indent=indent), encoding="utf-8")
    return path


def chat(key: str, date: str | None = None, text: str = "Hello") -> dict[str, Any]:
    created = {} if date is None else {"created_at": date}
    return {"id": key, **created, "messages": [{"role": "user", "content": text}]}


def keys(*paths: Path, **options: Any) -> list[str]:
    with ExportFiles(paths, **options) as files:
        assert files.failures == []
        found = [one.key for branches in files for one in branches]
        assert files.count == len(found)
        return found


def test_conversations_come_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    newest_first = [chat("c", "2024-03-01T00:00:00Z"), chat("a", "2024-01-01T00:00:00Z"), chat("n")]
    one = write(tmp_path / "one.json", newest_first, indent=2)
    two = write(tmp_path / "two.json", [chat("m"), chat("b", "2024-02-01T00:00:00Z")])

    assert keys(one, two) == ["n", "m", "a", "b", "c"]


def test_a_file_may_hold_conversations_of_every_format(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", [OPEN_WEBUI, CLAUDE, RESPONSES, CHATGPT])

    assert keys(path, key_prefix="my-") == [
        f"my-{key}" for key in (CHATGPT["id"], OPEN_WEBUI["id"], RESPONSES["id"], CLAUDE["uuid"])
    ]
    assert len(keys(path, branches=Branches.ALL)) == 6


def test_a_conversation_without_an_id_is_named_by_its_place(tmp_path: Path) -> None:
    given = {"messages": [{"role": "user", "content": "a"}]}
    lines = tmp_path / "lines.jsonl"
    lines.write_text(f"\n{json.dumps(given)}\n", encoding="utf-8")

    assert keys(lines) == ["lines.jsonl:2"]
    assert keys(write(tmp_path / "array.json", [given, given])) == [
        "array.json[0]",
        "array.json[1]",
    ]
    assert keys(write(tmp_path / "single.json", given, indent=1)) == ["single.json"]


def packed(tmp_path: Path, content: str) -> Iterator[Path]:
    with gzip.open(tmp_path / "a.json.gz", "wt", encoding="utf-8") as file:
        file.write(content)
    with lzma.open(tmp_path / "a.json.xz", "wt", encoding="utf-8") as file:
        file.write(content)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("user.json", "{}")
        archive.writestr("export/conversations.json", content)
    yield from (tmp_path / name for name in ("a.json.gz", "a.json.xz", "export.zip"))


def test_packed_files_are_read_newest_first_too(tmp_path: Path) -> None:
    content = json.dumps([chat("b", "2024-02-01T00:00:00Z"), chat("a", "2024-01-01T00:00:00Z")])

    for path in packed(tmp_path, content):
        assert keys(path) == ["a", "b"], path


def test_values_are_read_exactly_as_the_codec_reads_them(tmp_path: Path) -> None:
    message = (
        '{"role": "user", "content": "cut: \\ud83e NUL: \\u0000", "price": 1.10,'
        ' "n": 123456789012345678901234567890, "twice": 1, "twice": 2}'
    )
    path = tmp_path / "a.json"
    path.write_text(f'[\n {{"id": "x", "messages": [\n  {message}]}}\n]', encoding="utf-8")

    with ExportFiles([path]) as files:
        ((conversation,),) = files

    assert conversation.messages[0].body == loads(message)
    assert conversation.messages[0].body["twice"] == 2


def test_what_cannot_be_read_is_reported_with_its_place_and_stops_no_other(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(
        b'{"id": "a", "messages": []}\n{\n{"id": "\xff", "messages": []}\n'
        b'{"id": "b", "messages": [{}]}\n{"id": "c", "messages": [{"role": "user", "n": NaN}]}\n'
        b'{"id": "d", "messages": []}\n'
    )
    array = write(tmp_path / "b.json", [chat("e"), {"uuid": 5, "x": 1}, 7, chat("f")])
    array.write_bytes(array.read_bytes()[:-3])

    with ExportFiles([lines, array]) as files:
        found = [one.key for branches in files for one in branches]
        failures = {one.location: (one.key, one.reason) for one in files.failures}

    assert found == ["a", "d", "e"]
    assert {location: key for location, (key, _) in failures.items()} == {
        f"{lines}:2": None,
        f"{lines}:3": None,
        f"{lines}:4": "b",
        f"{lines}:5": None,
        f"{array}[1]": "5",
        f"{array}[2]": None,
        f"{array}[3]": None,
    }
    assert failures[f"{lines}:3"][1].startswith("is not JSON: 'utf-8' codec can't decode")
    assert failures[f"{lines}:4"][1] == "messages[0]: is not an object with a `role`"
    assert failures[f"{array}[2]"][1] == "conversation: is a int; give a JSON object"
    assert failures[f"{array}[3]"][1] == "is not JSON: the file ends before it does"


def test_a_format_that_is_given_is_not_guessed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [CLAUDE])

    with ExportFiles([path], format=Format.CHATGPT) as files:
        assert list(files) == []
        assert "mapping: is a NoneType" in files.failures[0].reason


def test_a_file_that_cannot_be_read_at_all_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "a.gz"
    broken.write_bytes(gzip.compress(b'{"id": "a", "messages": []}' * 1000)[:-20])
    empty = tmp_path / "a.zip"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("user.json", "{}")
    no_zip = tmp_path / "b.zip"
    no_zip.write_bytes(b"no")

    for path, message in (
        (broken, "cannot be read: Compressed file ended"),
        (no_zip, "cannot be read: File is not a zip file"),
        (empty, r"has no conversations\*.json in it; unpack it"),
        (tmp_path, "is not a file that can be read twice"),
    ):
        with pytest.raises(InvalidInput, match=message):
            ExportFiles([path])


def test_the_date_of_a_conversation_without_one_is_that_of_its_first_message(
    tmp_path: Path,
) -> None:
    given = chat("x")
    given["messages"][0]["created_at"] = "2024-01-05T08:00:00Z"

    with ExportFiles([write(tmp_path / "a.json", [given])]) as files:
        ((conversation,),) = files

    assert conversation.began_at == datetime(2024, 1, 5, 8, tzinfo=UTC)
