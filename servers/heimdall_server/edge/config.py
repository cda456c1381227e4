"""Settings of the HTTP edge: who may come in without a certificate, how long a client may take, where records go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from heimdall_server.domain.errors import ConfigurationError

_POSITIVE: Final = ("connections_max", "head_s", "body_s", "idle_s", "request_s")


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """The HTTP edge (`listen.http_address`). Sizes of requests are those of `[limits]`."""

    client_certificate: Literal["required", "optional"] = "required"
    """`optional` lets callers in who show a token instead."""
    tokens_file: Path | None = None
    """Tokens that `heimdall tokens issue` wrote; not readable by others. None: there are none."""
    elastic_dataset: str = "logs"
    """Dataset of records that come by Elasticsearch's `_bulk`."""
    loki_dataset: str = "logs"
    """Dataset of records that come by Loki's push."""
    connections_max: int = 512
    """Connections, handshakes among them; further ones wait. Each takes 0.3 MiB for TLS."""
    head_s: float = 10.0
    """A request's head arrives within this time."""
    body_s: float = 60.0
    """A request's body arrives within this time."""
    idle_s: float = 75.0
    """A connection without a request is closed after this time."""
    request_s: float = 30.0
    """Longest wait for a request's records to be durable; who would have to wait longer is refused at once."""

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            ConfigurationError: A limit isn't positive, or nobody could be named.
        """
        problems = [f"http.{name}: must be more than 0" for name in _POSITIVE if not getattr(self, name) > 0]
        if self.client_certificate == "optional" and self.tokens_file is None:
            problems.append("http.tokens_file: names the tokens for callers that http.client_certificate lets in")
        if problems:
            raise ConfigurationError(tuple(problems))
