"""Who sends a request: by the token that it shows, else by the certificate of its connection.

A certificate is checked exactly as on the gRPC ports (`rpc/identity`), at each request, so that a deny list takes effect
on connections that are open.
"""

from __future__ import annotations

import base64
import binascii
import logging
from typing import Final

from heimdall_server.domain.errors import UnauthenticatedError
from heimdall_server.domain.identity import Principal
from heimdall_server.edge.http.messages import Request
from heimdall_server.edge.http.tokens import TokensFile
from heimdall_server.rpc.identity import IdentityVerifier
from heimdall_server.rpc.permissions import Authorizer

_LOG: Final = logging.getLogger(__name__)
_WHAT: Final = "token"


class Callers:
    """Names callers. For one event loop."""

    def __init__(self, verifier: IdentityVerifier, authorizer: Authorizer, tokens: TokensFile | None) -> None:
        self._verifier = verifier
        self._authorizer = authorizer
        self._tokens = tokens

    def principal_of(self, request: Request) -> Principal:
        """Name the caller.

        Returns:
            With roles.

        Raises:
            UnauthenticatedError: It shows nothing, or nothing that is accepted. A log line says why.
        """
        return self._authorizer.with_roles(self._named(request))

    def _named(self, request: Request) -> Principal:
        shown = request.headers.get("authorization", "")
        if self._tokens is not None and shown:
            name, token = _credentials(shown)
            principal = self._tokens.find(token, name=name)
            if principal is not None:
                return principal
            _LOG.warning("token refused", extra={"peer": request.peer, "problem": "it isn't known"})
            raise UnauthenticatedError("it isn't one of this server's, or not of that name", _WHAT)
        if request.leaf_pem is not None:
            return self._verifier.verify(request.leaf_pem, peer=request.peer)
        raise UnauthenticatedError("there is none, nor a client certificate", _WHAT)


def _credentials(shown: str) -> tuple[str | None, str]:
    """The name (None: none was given) and the token of an `Authorization` header.

    `Bearer TOKEN`, `Basic` (user and password), `ApiKey` (Elasticsearch's: id and key, or a token by itself).
    """
    scheme, _, rest = shown.partition(" ")
    kind, text = scheme.lower(), rest.strip()
    if kind == "bearer":
        return None, text
    if kind in ("basic", "apikey"):
        try:
            name, colon, token = base64.b64decode(text, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            name = colon = token = ""
        if colon:
            return name, token
        if kind == "apikey":
            return None, text
    raise UnauthenticatedError("the Authorization header must be Bearer, Basic or ApiKey", _WHAT)
