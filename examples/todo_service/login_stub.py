"""
A stand-in for a login: whoever gives a name is that user. Put your identity provider here.

What stays when you do: the rest of the service asks one question, whose request it is, and gets
the answer of what was verified, never of a form, a path or a model.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64

from fastapi import Request
from mcp.server.auth.provider import AccessToken

COOKIE = "todo_login"


class LoginStub:
    """
    Signs names, and verifies them: in a browser's cookie, and as the bearer token of a client.

    :param secret: whoever knows it can be everybody. Tokens are valid as long as it is the same.
    :param resource: the URL of the MCP server, for which its clients' tokens are.
    """

    def __init__(self, secret: str, resource: str) -> None:
        self._secret, self._resource = secret.encode(), resource

    def token(self, name: str) -> str:
        """Return the token that says that its bearer is `name`."""
        encoded = urlsafe_b64encode(name.encode()).decode().rstrip("=")
        return f"{encoded}.{self._signature(encoded)}"

    def subject(self, token: str) -> str | None:
        """Return whose token it is; None if it was not signed here."""
        encoded, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(encoded).encode()):
            return None
        try:
            return urlsafe_b64decode(f"{encoded}==").decode()
        except (NotBase64, UnicodeDecodeError):
            return None

    def _signature(self, encoded: str) -> str:
        return hmac.new(self._secret, encoded.encode(), "sha256").hexdigest()

    async def verified_subject(self, request: Request) -> str | None:
        """Return who sends a request; for FastAPI's `user_of`."""
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        token = bearer if scheme.lower() == "bearer" else request.cookies.get(COOKIE, "")
        return self.subject(token)

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return what a token says; for the MCP server, whose `TokenVerifier` this is."""
        subject = self.subject(token)
        if subject is None:
            return None
        return AccessToken(
            token=token, client_id="todo", scopes=[], subject=subject, resource=self._resource
        )
