"""Anchor files: what was written is read, what was changed is refused, and openssl agrees."""

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

instants = st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - made aware by hypothesis
user_ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
every_head = st.lists(
    st.builds(
        Head,
        user_id=user_ids,
        position=st.integers(1, 2**63 - 1),
        hash=st.binary(min_size=32, max_size=32),
        recorded_at=instants,
    ),
    unique_by=lambda head: head.user_id,
)
SOME = [Head("alice", 42, bytes(range(32)), datetime(2026, 11, 22, tzinfo=UTC))]


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
"""A curve that the library does not know, and says so with an error of its own."""


def private_pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


KEY = ed25519.Ed25519PrivateKey.generate()


def written(heads: Sequence[Head], key: bytes | None = None) -> bytes:
    file = io.BytesIO()
    assert write_anchor(file, heads, private_key=key) == len(heads)
    return file.getvalue()


@settings(deadline=None)
@given(heads=every_head, signed=st.booleans())
def test_what_was_written_is_read(heads: list[Head], signed: bool) -> None:
    key = private_pem(KEY) if signed else None

    with TemporaryDirectory() as folder:
        file = Path(folder) / "anchor"
        file.write_bytes(written(heads, key))
        anchor = read_anchor(file, public_key=public_pem(KEY) if signed else None)

    assert list(anchor.heads.values()) == heads
    assert anchor.signed is signed


def test_a_head_of_an_early_year_is_read_back(tmp_path: Path) -> None:
    early = Head("alice", 1, bytes(32), datetime(500, 1, 1, tzinfo=UTC))
    (tmp_path / "anchor").write_bytes(written([early]))

    assert read_anchor(tmp_path / "anchor").heads == {"alice": early}


def accepted(file: Path, content: bytes, **how: bytes) -> bool:
    file.write_bytes(content)
    try:
        read_anchor(file, **how)
    except InvalidInput as error:
        return error.path != str(file)  # refused by its name
    return True


def test_a_change_of_any_byte_before_the_seal_is_refused(tmp_path: Path) -> None:
    content = written(SOME)
    seal = content.rindex(b'{"heads"')

    taken = [
        (at, other)
        for at in range(seal)
        for other in {content[at] ^ 1, content[at] ^ 0x20, 0, 10, 13, 32} - {content[at]}
        if accepted(tmp_path / "a", content[:at] + bytes([other]) + content[at + 1 :])
    ]

    assert taken == []


def test_no_change_of_a_byte_of_a_signed_seal_makes_another_anchor(tmp_path: Path) -> None:
    content = written(SOME, private_pem(KEY))
    seal = content.rindex(b'{"heads"')

    for at in range(seal, len(content)):
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        if accepted(tmp_path / "a", changed, public_key=public_pem(KEY)):
            anchor = read_anchor(tmp_path / "a", public_key=public_pem(KEY))
            assert list(anchor.heads.values()) == SOME


def test_a_file_cut_by_its_last_byte_is_refused(tmp_path: Path) -> None:
    assert not accepted(tmp_path / "a", written(SOME)[:-1])


@pytest.mark.parametrize("signed", [False, True])
def test_a_file_cut_anywhere_else_is_refused(tmp_path: Path, signed: bool) -> None:
    content = written(SOME, private_pem(KEY) if signed else None)

    taken = [at for at in range(len(content) - 1) if accepted(tmp_path / "a", content[:at])]

    assert taken == []


def test_a_line_added_or_taken_away_is_refused(tmp_path: Path) -> None:
    lines = written([*SOME, Head("bob", 1, bytes(32), datetime.now(UTC))]).splitlines(keepends=True)

    for at in range(len(lines)):
        for other in ([], [lines[at], lines[at]], [b"{}\n", lines[at]], [b"\n", lines[at]]):
            assert not accepted(tmp_path / "a", b"".join(lines[:at] + other + lines[at + 1 :]))


@pytest.mark.parametrize("content", [b"", b"\n", b"5\n", b"[]\n[]\n", b"\xff\n\xfe\n", b"{}\n{}\n"])
def test_what_is_no_anchor_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    assert not accepted(tmp_path / "a", content)


@pytest.mark.parametrize(
    "head",
    [
        Head("alice", 2**63, bytes(32), SOME[0].recorded_at),
        Head("", 1, bytes(32), SOME[0].recorded_at),
        Head("al\0ice", 1, bytes(32), SOME[0].recorded_at),
        SOME[0],
    ],
)
def test_a_head_that_no_log_has_is_refused_though_sealed(tmp_path: Path, head: Head) -> None:
    assert not accepted(tmp_path / "a", written([*SOME, head]))


def sealed(first: str, heads: object = 0) -> bytes:
    top = first.encode() + b"\n"
    return top + json.dumps({"heads": heads, "sha256": sha256(top).hexdigest()}).encode() + b"\n"


def test_instants_and_counts_in_another_form_are_refused_though_sealed(tmp_path: Path) -> None:
    right = "2026-11-22T21:10:15.000000Z"
    assert accepted(tmp_path / "a", sealed(f'{{"anchor":1,"taken_at":"{right}"}}'))

    for instant in (
        "2026-11-22T21:10:15", "2026-11-22T21:10:15Z", "2026-11-22T21:10:15.000000+00:00",
        "9999-12-31T23:59:59.000000-12:00", "0001-01-01T00:00:00.000000+12:00", "2026-11-22",
    ):  # fmt: skip
        assert not accepted(tmp_path / "a", sealed(f'{{"anchor":1,"taken_at":"{instant}"}}'))
    for anchor, heads in (("true", 0), ("1.0", 0), ("1", False), ("1", 0.0)):
        first = f'{{"anchor":{anchor},"taken_at":"{right}"}}'
        assert not accepted(tmp_path / "a", sealed(first, heads))


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nowhere: cannot be read"):
        read_anchor(tmp_path / "nowhere")


def test_another_key_or_no_signature_is_refused(tmp_path: Path) -> None:
    other = public_pem(ed25519.Ed25519PrivateKey.generate())
    file = tmp_path / "a"

    assert not accepted(file, written(SOME, private_pem(KEY)), public_key=other)
    assert not accepted(file, written(SOME), public_key=other)
    assert accepted(file, written(SOME, private_pem(KEY)), public_key=public_pem(KEY))


def test_a_forged_seal_does_not_carry_the_old_signature(tmp_path: Path) -> None:
    *_, seal = written(SOME, private_pem(KEY)).splitlines()
    forged = written([Head("alice", 41, bytes(32), SOME[0].recorded_at)]).splitlines(keepends=True)
    new = json.loads(forged[-1]) | {"signature": json.loads(seal)["signature"]}

    content = b"".join(forged[:-1]) + json.dumps(new).encode() + b"\n"

    assert accepted(tmp_path / "a", content)
    assert not accepted(tmp_path / "a", content, public_key=public_pem(KEY))


def test_keys_that_cannot_sign_or_check_are_refused_as_such(tmp_path: Path) -> None:
    wrong = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    (tmp_path / "a").write_bytes(written(SOME, private_pem(KEY)))

    for private in (private_pem(wrong), b"garbage", public_pem(KEY), b"", SM2_PRIVATE):
        with pytest.raises(ConfigurationError, match="private key"):
            written(SOME, private)
    for public in (public_pem(wrong), b"garbage", private_pem(KEY), b"", SM2_PUBLIC):
        with pytest.raises(ConfigurationError, match="public key"):
            read_anchor(tmp_path / "a", public_key=public)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_makes_the_keys_and_confirms_the_signature(tmp_path: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    openssl("genpkey", "-algorithm", "ed25519", "-out", "key")
    openssl("pkey", "-in", "key", "-pubout", "-out", "public")
    content = written(SOME, (tmp_path / "key").read_bytes())
    seal = json.loads(content.splitlines()[-1])

    (tmp_path / "signature").write_bytes(bytes.fromhex(seal["signature"]))
    (tmp_path / "said").write_bytes(f"eventstore anchor {seal['sha256']}".encode())

    openssl("pkeyutl", "-verify", "-pubin", "-inkey", "public", "-rawin", "-in", "said",
            "-sigfile", "signature")  # fmt: skip
    assert accepted(tmp_path / "a", content, public_key=(tmp_path / "public").read_bytes())
