"""TLS of syslog connections: the server's certificate, TLS 1.3 only, and who the other end is (RFC 5425)."""

from __future__ import annotations

import ssl
from typing import Final

from heimdall_server.domain.errors import PermissionDeniedError, UnauthenticatedError
from heimdall_server.domain.identity import Principal
from heimdall_server.rpc.identity import IdentityVerifier
from heimdall_server.rpc.permissions import Authorizer
from heimdall_server.rpc.tls_files import TlsConfig, TlsFiles

PERMISSION: Final = "ingest.append"


class SyslogTls:
    """Contexts for handshakes, always with the certificates in force, and identities after them."""

    def __init__(
        self, files: TlsFiles, config: TlsConfig, *, verifier: IdentityVerifier, authorizer: Authorizer, required: bool
    ) -> None:
        """Prepare.

        Args:
            files: The certificates, checked.
            config: Where they are: a context loads them from there.
            verifier: Names the holder of a certificate.
            authorizer: Knows what a name may do.
            required: Whether a client must have a certificate.
        """
        self._files = files
        self._config = config
        self._verifier = verifier
        self._authorizer = authorizer
        self._required = required
        self._context: ssl.SSLContext | None = None
        self._version = 0

    def context(self) -> ssl.SSLContext:
        """For the next handshake. A new one is made when the files have changed."""
        material = self._files.current
        if self._context is not None and material.version == self._version:
            return self._context
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED if self._required else ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=material.roots_pem.decode())
        try:
            context.load_cert_chain(self._config.certificate_file, self._config.key_file)
        except (OSError, ssl.SSLError):
            # They are being replaced once more just now: the old ones are good until they are read as a whole.
            if self._context is None:
                raise
            return self._context
        self._context, self._version = context, material.version
        return context

    def principal_of(self, connection: ssl.SSLObject, *, peer: str) -> Principal | None:
        """Who is at the other end, after the handshake.

        Returns:
            None: it showed no certificate, and needn't.

        Raises:
            UnauthenticatedError: Its certificate isn't accepted.
            PermissionDeniedError: It may not write.
        """
        certificate = connection.getpeercert(binary_form=True)
        if certificate is None:
            if self._required:
                raise UnauthenticatedError("there is none")
            return None
        pem = ssl.DER_cert_to_PEM_cert(certificate).encode()
        principal = self._authorizer.with_roles(self._verifier.verify(pem, peer=peer))
        if not principal.may(PERMISSION):
            raise PermissionDeniedError(principal.uri, PERMISSION)
        return principal
