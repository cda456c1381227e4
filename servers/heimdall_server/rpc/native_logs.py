"""What native libraries write to file descriptor 2, as events of our log.

gRPC's core says there, and nowhere else, why it refused a handshake: no certificate, an authority it doesn't know, an
expired certificate. So the server's descriptor 2 is a pipe, read by a thread that turns each line into a log record;
our own log goes to the real one. If the process dies of a signal, what stood in the pipe is lost, so Python's fault
handler writes to the real one, too.
"""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
import re
import sys
import threading
import time
from types import TracebackType
from typing import Final, TextIO

from prometheus_client import Counter

_LOG: Final = logging.getLogger(__name__)
_STDERR: Final = 2
_LINE_CHARACTERS_MAX: Final = 2048
_PIPE_BYTES: Final = 1024 * 1024
_ABSL: Final = re.compile(r"(?P<severity>[IWEF])\d{4} [\d:.]+ +\d+ (?P<place>[^\]]+)\] (?P<text>.*)")
_HANDSHAKE: Final = re.compile(r"Handshake failed with error \w+: error:\w+:[^:]*:[^:]*:(?P<name>\w+): ?(?P<detail>.*)")
_LEVELS: Final = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}
_PREAMBLE: Final = "All log messages before absl::InitializeLog() is called"

_NO_CERTIFICATE: Final = "PEER_DID_NOT_RETURN_A_CERTIFICATE"
_VERIFY_FAILED: Final = "CERTIFICATE_VERIFY_FAILED"
_NO_SHARED_CIPHER: Final = "NO_SHARED_CIPHER"
_ADVICE: Final = {
    _NO_CERTIFICATE: (
        "no_certificate",
        "the client showed no certificate; give it the one that 'heimdall certs issue' made",
    ),
    _NO_SHARED_CIPHER: ("old_tls", "the client can't speak TLS 1.3 with ECDSA"),
    "UNSUPPORTED_PROTOCOL": ("old_tls", "the client can't speak TLS 1.3"),
    "WRONG_VERSION_NUMBER": ("not_tls", "the client doesn't speak TLS"),
    "HTTP_REQUEST": ("not_tls", "the client speaks plain HTTP"),
}
_EXPECTED_S: Final = 2.0
_expected: list[float] = []
_HANDSHAKES: Final = Counter("heimdall_tls_handshakes_refused_total", "TLS handshakes refused, by reason", ["reason"])


def expect_refused_hello() -> None:
    """Say that this process is about to offer itself TLS 1.2: the refusal, if it comes soon, is no news."""
    _expected.append(time.monotonic() + _EXPECTED_S)


def _was_expected(name: str) -> bool:
    now = time.monotonic()
    _expected[:] = [until for until in _expected if until > now]
    if name == _NO_SHARED_CIPHER and _expected:
        _expected.pop(0)
        return True
    return False


class NativeLogs:
    """Owns descriptor 2 between `start` and `stop`. One a process."""

    def __init__(self) -> None:
        self._real: TextIO | None = None
        self._thread: threading.Thread | None = None
        self._old_stderr: TextIO | None = None
        self._had_fault_handler = False

    def start(self) -> TextIO:
        """Take the descriptor over.

        Returns:
            The real stderr, for the log: `configure_logging(stream=…)`. `sys.stderr` is it, too.
        """
        real_descriptor = os.dup(_STDERR)
        reader, writer = os.pipe()
        # A library may write while it holds the interpreter's lock, which the reading thread needs: a full pipe must
        # lose lines, not wait.
        os.set_blocking(writer, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.dup2(writer, _STDERR)
        os.close(writer)
        self._real = os.fdopen(real_descriptor, "w", buffering=1, encoding="utf-8", errors="replace")
        self._old_stderr, sys.stderr = sys.stderr, self._real
        self._had_fault_handler = faulthandler.is_enabled()
        faulthandler.enable(self._real)
        self._thread = threading.Thread(target=_relay, args=(reader,), name="native-logs", daemon=True)
        self._thread.start()
        return self._real

    def stop(self) -> None:
        """Give the descriptor back, after what is in the pipe was logged, and close what `start` returned.

        A process that ends needn't call it.
        """
        if self._real is None or self._thread is None:
            return
        # The pipe ends when its last writer is gone: this very descriptor.
        os.dup2(self._real.fileno(), _STDERR)
        self._thread.join(timeout=1.0)
        faulthandler.disable()
        if self._had_fault_handler:
            faulthandler.enable(_STDERR)
        if sys.stderr is self._real and self._old_stderr is not None:
            sys.stderr = self._old_stderr
        self._real.close()
        self._real = self._thread = None

    def __enter__(self) -> TextIO:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _relay(reader: int) -> None:
    with os.fdopen(reader, "r", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            log_native_line(line.rstrip("\n"))


def log_native_line(line: str) -> None:
    """Log one line that a native library wrote.

    A failed handshake becomes `tls handshake refused` with a reason and advice; gRPC doesn't tell whose it was.
    """
    if not line or _PREAMBLE in line:
        return
    parsed = _ABSL.match(line)
    text = parsed["text"] if parsed else line
    failed = _HANDSHAKE.search(text)
    if failed:
        name, detail = failed["name"], failed["detail"]
        if _was_expected(name):
            return
        reason, advice = _ADVICE.get(name, ("handshake", "the TLS handshake failed"))
        if name == _VERIFY_FAILED:
            reason, advice = "untrusted_certificate", f"the client's certificate isn't accepted: {detail}"
        _HANDSHAKES.labels(reason).inc()
        _LOG.warning("tls handshake refused", extra={"reason": reason, "problem": advice, "detail": name})
        return
    level = _LEVELS[parsed["severity"]] if parsed else logging.INFO
    fields = {"place": parsed["place"]} if parsed else {}
    _LOG.log(level, "native message", extra={"text": text[:_LINE_CHARACTERS_MAX], **fields})
