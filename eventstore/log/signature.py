"""
Ed25519 signatures of anchors, by the library `cryptography` (the extra `signing`).

Keys are PEM, as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them.
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
    Refuse a key that cannot sign, before any work is done.

    :raises ConfigurationError: it is no Ed25519 key in PEM, or the extra is not installed.
    """
    _private(private_key)


def sign(message: bytes, private_key: bytes) -> bytes:
    """Return the signature of `message`, 64 bytes."""
    return _private(private_key).sign(message)


def verify_signature(message: bytes, signature: str, public_key: bytes) -> bool:
    """Tell whether `signature` (hex) is that of `message` by the owner of `public_key`."""
    key = _public(public_key)
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an optional extra

    try:
        key.verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _private(pem: bytes) -> Ed25519PrivateKey:
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
        raise _missing() from None
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(
            "the private key is no Ed25519 key in PEM without a passphrase; "
            "make one with `openssl genpkey -algorithm ed25519`"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            "the private key is not Ed25519; make one with `openssl genpkey -algorithm ed25519`"
        )
    return key


def _public(pem: bytes) -> Ed25519PublicKey:
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
        raise _missing() from None
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            "the public key is no Ed25519 public key in PEM; `openssl pkey -pubout` writes it"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError("the public key is not Ed25519")
    return key


def _missing() -> ConfigurationError:
    return ConfigurationError("signatures need the extra: `pip install 'todo-eventstore[signing]'`")
