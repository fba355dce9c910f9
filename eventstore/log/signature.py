"""
Ed25519 signatures of anchors, made with the library `cryptography` (the extra `signing`).

Keys are PEM, as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them. The
library is imported where it is used, because most services sign nothing and do not install it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

__all__ = ["check_private_key", "sign", "verify_signature"]


def check_private_key(private_key: bytes) -> None:
    """
    Refuse a private key that cannot sign, so that a caller finds out before any work is done.

    :param private_key: an Ed25519 private key as PEM, without a passphrase.
    :raises ConfigurationError: the key is not of that kind, or the extra `signing` is not
        installed.
    """
    _load_private(private_key)


def sign(message: bytes, private_key: bytes) -> bytes:
    """
    Return the signature of `message`, 64 bytes.

    :param private_key: an Ed25519 private key as PEM, without a passphrase.
    :raises ConfigurationError: the key is not of that kind, or the extra `signing` is not
        installed.
    """
    return _load_private(private_key).sign(message)


def verify_signature(message: bytes, signature: str, public_key: bytes) -> bool:
    """
    Return whether `signature` was made of `message` with the private key of `public_key`.

    :param signature: in hex; text that is not hex is a wrong signature and no error.
    :param public_key: an Ed25519 public key as PEM.
    :raises ConfigurationError: the key is not of that kind, or the extra `signing` is not
        installed.
    """
    key = _load_public(public_key)
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an optional extra

    try:
        key.verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _load_private(pem: bytes) -> Ed25519PrivateKey:
    try:
        from cryptography.exceptions import (  # noqa: PLC0415 - an optional extra
            UnsupportedAlgorithm,
        )
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - an optional extra
            Ed25519PrivateKey,
        )
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - an optional extra
            load_pem_private_key,
        )
    except ImportError:
        raise _extra_missing() from None
    try:
        key = load_pem_private_key(pem, password=None)
    # TypeError means a key with a passphrase, UnsupportedAlgorithm a curve that OpenSSL lacks.
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(
            "the private key is not an Ed25519 key in PEM without a passphrase; "
            "make one with `openssl genpkey -algorithm ed25519`"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            "the private key is not Ed25519; make one with `openssl genpkey -algorithm ed25519`"
        )
    return key


def _load_public(pem: bytes) -> Ed25519PublicKey:
    try:
        from cryptography.exceptions import (  # noqa: PLC0415 - an optional extra
            UnsupportedAlgorithm,
        )
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - an optional extra
            Ed25519PublicKey,
        )
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - an optional extra
            load_pem_public_key,
        )
    except ImportError:
        raise _extra_missing() from None
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            "the public key is not an Ed25519 public key in PEM; `openssl pkey -pubout` writes one"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(
            "the public key is not Ed25519; give the public half of the key that signed"
        )
    return key


def _extra_missing() -> ConfigurationError:
    return ConfigurationError(
        "signatures need the extra `signing`: `pip install 'todo-eventstore[signing]'`"
    )
