"""TLS for the HTTP edge: the same files as gRPC's, TLS 1.3 only, and a new context whenever the files change."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path
from typing import Literal

from heimdall_server.rpc.tls_files import TlsFiles, TlsMaterial


class TlsContexts:
    """The context for the next handshake. For one event loop."""

    def __init__(self, files: TlsFiles, *, client_certificate: Literal["required", "optional"]) -> None:
        self._files = files
        self._mode = ssl.CERT_REQUIRED if client_certificate == "required" else ssl.CERT_OPTIONAL
        self._made: tuple[int, ssl.SSLContext] | None = None

    def current(self) -> ssl.SSLContext:
        """Cost: a lock; 2 ms after the files changed."""
        material = self._files.current
        if self._made is None or self._made[0] != material.version:
            self._made = material.version, _context(material, self._mode)
        return self._made[1]


def _context(material: TlsMaterial, mode: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = mode
    context.load_verify_locations(cadata=material.roots_pem.decode())
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session would carry a certificate that was checked in an earlier handshake.
    context.num_tickets = 0
    with tempfile.TemporaryDirectory() as folder:
        # The module takes a certificate and its key from a file only; the folder has mode 0700.
        pair = Path(folder) / "pair.pem"
        pair.touch(mode=0o600)
        pair.write_bytes(material.key_pem + b"\n" + material.certificate_pem)
        context.load_cert_chain(pair)
    return context
