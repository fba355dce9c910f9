"""Anchor files: a written file is read back, a changed one is refused, and openssl agrees."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import ConfigurationError, Head, InvalidInput, read_anchor, write_anchor

timestamps = st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - made aware by hypothesis
user_ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
every_head = st.lists(
    st.builds(
        Head,
        user_id=user_ids,
        position=st.integers(1, 2**63 - 1),
        hash=st.binary(min_size=32, max_size=32),
        recorded_at=timestamps,
    ),
    unique_by=lambda head: head.user_id,
)
HEADS = [Head("alice", 42, bytes(range(32)), datetime(2026, 11, 22, tzinfo=UTC))]


SM2_PRIVATE = b"""-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqBHM9VAYItBG0wawIBAQQg0GGPqZvFjJvwfzCI
O/Ct4tD6EntVmdvDrGb6AlXnOKehRANCAASlw3Y5uDRikJPBhUtR6RjxyrFm9DaM
VxKPUbfcj5E69ste1IVM56OLrtjAdY8nBqqBIRYqD+Ubd6LH/DbZ+6hR
-----END PRIVATE KEY-----
"""
SM2_PUBLIC = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoEcz1UBgi0DQgAE+Fl/39pDIiZ9WtOTNMFkA2PhZQFE
IZ9JRFtxAX2pK8hv+0vxNTy0BbZ+AcfhCMeQRaId/8XfKSljbigR0FfYYw==
-----END PUBLIC KEY-----
"""
"""Keys on a curve that `cryptography` rejects with an exception of its own type."""


def private_pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


KEY = ed25519.Ed25519PrivateKey.generate()


def anchor_bytes(heads: Sequence[Head], key: bytes | None = None) -> bytes:
    file = io.BytesIO()
    assert write_anchor(file, heads, private_key=key) == len(heads)
    return file.getvalue()


@settings(deadline=None)
@given(heads=every_head, signed=st.booleans())
def test_written_heads_are_read_back(heads: list[Head], signed: bool) -> None:
    key = private_pem(KEY) if signed else None

    with TemporaryDirectory() as folder:
        file = Path(folder) / "anchor"
        file.write_bytes(anchor_bytes(heads, key))
        anchor = read_anchor(file, public_key=public_pem(KEY) if signed else None)

    assert list(anchor.heads.values()) == heads
    assert anchor.signed is signed


def test_a_head_of_an_early_year_is_read_back(tmp_path: Path) -> None:
    early = Head("alice", 1, bytes(32), datetime(500, 1, 1, tzinfo=UTC))
    (tmp_path / "anchor").write_bytes(anchor_bytes([early]))

    assert read_anchor(tmp_path / "anchor").heads == {"alice": early}


def is_accepted(file: Path, content: bytes, **public_key_option: bytes) -> bool:
    file.write_bytes(content)
    try:
        read_anchor(file, **public_key_option)
    except InvalidInput as error:
        return error.path != str(file)  # a refusal of the file names it
    return True


def test_a_change_of_any_byte_before_the_seal_is_refused(tmp_path: Path) -> None:
    content = anchor_bytes(HEADS)
    seal = content.rindex(b'{"heads"')

    accepted = [
        (at, other)
        for at in range(seal)
        for other in {content[at] ^ 1, content[at] ^ 0x20, 0, 10, 13, 32} - {content[at]}
        if is_accepted(tmp_path / "a", content[:at] + bytes([other]) + content[at + 1 :])
    ]

    assert accepted == []


def test_a_changed_byte_in_a_signed_seal_never_yields_other_heads(tmp_path: Path) -> None:
    content = anchor_bytes(HEADS, private_pem(KEY))
    seal = content.rindex(b'{"heads"')

    for at in range(seal, len(content)):
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        if is_accepted(tmp_path / "a", changed, public_key=public_pem(KEY)):
            anchor = read_anchor(tmp_path / "a", public_key=public_pem(KEY))
            assert list(anchor.heads.values()) == HEADS


def test_a_file_without_its_last_byte_is_refused(tmp_path: Path) -> None:
    assert not is_accepted(tmp_path / "a", anchor_bytes(HEADS)[:-1])


@pytest.mark.parametrize("signed", [False, True])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, signed: bool) -> None:
    content = anchor_bytes(HEADS, private_pem(KEY) if signed else None)

    accepted = [at for at in range(len(content) - 1) if is_accepted(tmp_path / "a", content[:at])]

    assert accepted == []


def test_a_file_with_an_added_or_removed_line_is_refused(tmp_path: Path) -> None:
    lines = anchor_bytes([*HEADS, Head("bob", 1, bytes(32), datetime.now(UTC))]).splitlines(
        keepends=True
    )

    for at in range(len(lines)):
        for other in ([], [lines[at], lines[at]], [b"{}\n", lines[at]], [b"\n", lines[at]]):
            assert not is_accepted(tmp_path / "a", b"".join(lines[:at] + other + lines[at + 1 :]))


@pytest.mark.parametrize("content", [b"", b"\n", b"5\n", b"[]\n[]\n", b"\xff\n\xfe\n", b"{}\n{}\n"])
def test_a_file_that_is_not_an_anchor_is_refused_and_named(tmp_path: Path, content: bytes) -> None:
    assert not is_accepted(tmp_path / "a", content)


@pytest.mark.parametrize(
    "head",
    [
        Head("alice", 2**63, bytes(32), HEADS[0].recorded_at),
        Head("", 1, bytes(32), HEADS[0].recorded_at),
        Head("al\0ice", 1, bytes(32), HEADS[0].recorded_at),
        HEADS[0],
    ],
)
def test_an_impossible_head_is_refused_even_under_a_valid_seal(tmp_path: Path, head: Head) -> None:
    assert not is_accepted(tmp_path / "a", anchor_bytes([*HEADS, head]))


def with_valid_seal(first: str, heads: object = 0) -> bytes:
    top = first.encode() + b"\n"
    return top + json.dumps({"heads": heads, "sha256": sha256(top).hexdigest()}).encode() + b"\n"


def test_a_malformed_timestamp_or_count_is_refused_even_under_a_valid_seal(tmp_path: Path) -> None:
    right = "2026-11-22T21:10:15.000000Z"
    assert is_accepted(tmp_path / "a", with_valid_seal(f'{{"anchor":1,"taken_at":"{right}"}}'))

    for timestamp in (
        "2026-11-22T21:10:15", "2026-11-22T21:10:15Z", "2026-11-22T21:10:15.000000+00:00",
        "9999-12-31T23:59:59.000000-12:00", "0001-01-01T00:00:00.000000+12:00", "2026-11-22",
    ):  # fmt: skip
        assert not is_accepted(
            tmp_path / "a", with_valid_seal(f'{{"anchor":1,"taken_at":"{timestamp}"}}')
        )
    for anchor, heads in (("true", 0), ("1.0", 0), ("1", False), ("1", 0.0)):
        first = f'{{"anchor":{anchor},"taken_at":"{right}"}}'
        assert not is_accepted(tmp_path / "a", with_valid_seal(first, heads))


def test_a_missing_file_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nowhere: cannot be read"):
        read_anchor(tmp_path / "nowhere")


def test_an_anchor_file_may_be_given_as_text_or_as_a_path(tmp_path: Path) -> None:
    file = tmp_path / "anchor"
    file.write_bytes(anchor_bytes(HEADS))

    assert read_anchor(str(file)) == read_anchor(file)


def test_a_file_signed_with_another_key_or_not_signed_is_refused(tmp_path: Path) -> None:
    other = public_pem(ed25519.Ed25519PrivateKey.generate())
    file = tmp_path / "a"

    assert not is_accepted(file, anchor_bytes(HEADS, private_pem(KEY)), public_key=other)
    assert not is_accepted(file, anchor_bytes(HEADS), public_key=other)
    assert is_accepted(file, anchor_bytes(HEADS, private_pem(KEY)), public_key=public_pem(KEY))


def test_an_old_signature_is_refused_on_a_forged_seal(tmp_path: Path) -> None:
    *_, seal = anchor_bytes(HEADS, private_pem(KEY)).splitlines()
    forged = anchor_bytes([Head("alice", 41, bytes(32), HEADS[0].recorded_at)]).splitlines(
        keepends=True
    )
    new = json.loads(forged[-1]) | {"signature": json.loads(seal)["signature"]}

    content = b"".join(forged[:-1]) + json.dumps(new).encode() + b"\n"

    assert is_accepted(tmp_path / "a", content)
    assert not is_accepted(tmp_path / "a", content, public_key=public_pem(KEY))


def test_a_key_that_cannot_sign_or_verify_is_refused(tmp_path: Path) -> None:
    wrong = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    (tmp_path / "a").write_bytes(anchor_bytes(HEADS, private_pem(KEY)))

    for private in (private_pem(wrong), b"garbage", public_pem(KEY), b"", SM2_PRIVATE):
        with pytest.raises(ConfigurationError, match="private key"):
            anchor_bytes(HEADS, private)
    for public in (public_pem(wrong), b"garbage", private_pem(KEY), b"", SM2_PUBLIC):
        with pytest.raises(ConfigurationError, match="public key"):
            read_anchor(tmp_path / "a", public_key=public)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_verifies_a_signature_made_with_its_key(tmp_path: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    openssl("genpkey", "-algorithm", "ed25519", "-out", "key")
    openssl("pkey", "-in", "key", "-pubout", "-out", "public")
    content = anchor_bytes(HEADS, (tmp_path / "key").read_bytes())
    seal = json.loads(content.splitlines()[-1])

    (tmp_path / "signature").write_bytes(bytes.fromhex(seal["signature"]))
    (tmp_path / "message").write_bytes(f"eventstore anchor {seal['sha256']}".encode())

    openssl("pkeyutl", "-verify", "-pubin", "-inkey", "public", "-rawin", "-in", "message",
            "-sigfile", "signature")  # fmt: skip
    assert is_accepted(tmp_path / "a", content, public_key=(tmp_path / "public").read_bytes())
