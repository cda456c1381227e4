"""A bad network on demand: the real toxiproxy between a client and a server, driven by its HTTP API.

A proxy forwards bytes until it is told otherwise: it may be disabled (every connection is cut and new ones are refused)
or given toxics, which spoil one direction of what goes through: latency, silence, resets, a narrow pipe.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import pytest

from tests.support.server_process import free_ports
from tests.support.testbed import tool

Direction = Literal["upstream", "downstream"]
"""From the client to the server, or back."""

START_S: Final = 10.0
STOP_S: Final = 5.0
REQUEST_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Proxy:
    """A way to a server that can be spoilt. Made by `Toxiproxy.proxy`."""

    toxiproxy: Toxiproxy
    name: str
    address: str
    """Where clients connect, `host:port`; stays the same when the proxy is disabled and enabled again."""
    upstream: str
    """The server."""

    def disable(self) -> None:
        """Cut every connection; refuse new ones."""
        self._set_enabled(enabled=False)

    def enable(self) -> None:
        """Let clients through again."""
        self._set_enabled(enabled=True)

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Nobody gets through while the block runs."""
        self.disable()
        try:
            yield
        finally:
            self.enable()

    def cut(self) -> None:
        """Close every connection, once; new ones get through at once."""
        with self.disabled():
            pass

    def latency(self, latency_ms: int, *, jitter_ms: int = 0, stream: Direction = "downstream") -> str:
        """Delay everything by about so much."""
        return self.add("latency", stream, latency=latency_ms, jitter=jitter_ms)

    def silence(self, *, stream: Direction = "downstream") -> str:
        """Half open: bytes stop, and nobody is told. Removing it closes the connections that it stopped."""
        return self.add("timeout", stream, timeout=0)

    def reset(self, *, after_ms: int = 0, stream: Direction = "downstream") -> str:
        """Reset each connection (RST), old and new, after so long."""
        return self.add("reset_peer", stream, timeout=after_ms)

    def bandwidth(self, kib_per_s: int, *, stream: Direction = "downstream") -> str:
        """Let only so much through."""
        return self.add("bandwidth", stream, rate=kib_per_s)

    def slices(self, bytes_each: int, *, delay_us: int = 0, stream: Direction = "downstream") -> str:
        """Pass bytes on in small pieces of varied size."""
        return self.add(
            "slicer", stream, average_size=bytes_each, size_variation=max(1, bytes_each // 2), delay=delay_us
        )

    def cut_after(self, total_bytes: int, *, stream: Direction = "downstream") -> str:
        """Close each connection after so many bytes."""
        return self.add("limit_data", stream, bytes=total_bytes)

    def add(self, kind: str, stream: Direction, **attributes: int) -> str:
        """Add any toxic that toxiproxy knows; returns its name, for `remove`."""
        toxic = {"type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes}
        return str(self.toxiproxy.request("POST", f"/proxies/{self.name}/toxics", toxic)["name"])

    def remove(self, toxic: str) -> None:
        """Take a toxic away."""
        self.toxiproxy.request("DELETE", f"/proxies/{self.name}/toxics/{toxic}")

    def renew(self) -> None:
        """Close every connection and take all toxics away, at once.

        Not as `cut` and `heal`: toxiproxy may wait for ever to take a toxic that holds bytes back from a connection that it
        has just closed.
        """
        self.toxiproxy.request("DELETE", f"/proxies/{self.name}")
        self.toxiproxy.create(self.name, self.address, self.upstream)

    def heal(self) -> None:
        """Take all toxics away, and enable it. Connections live on; see `renew` for those that don't."""
        for toxic in self.toxiproxy.request("GET", f"/proxies/{self.name}")["toxics"]:
            self.remove(toxic["name"])
        self.enable()

    @contextlib.contextmanager
    def toxic(self, name: str) -> Iterator[None]:
        """Take a toxic away at the end of a block: `with proxy.toxic(proxy.latency(50)):`."""
        try:
            yield
        finally:
            self.remove(name)

    def _set_enabled(self, *, enabled: bool) -> None:
        self.toxiproxy.request("POST", f"/proxies/{self.name}", {"enabled": enabled})


class Toxiproxy:
    """A running toxiproxy. Use it as a context manager, which starts and stops it.

    Args:
        binary: See `deploy/testbed/toxiproxy.sh`.
    """

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

    def start(self) -> None:
        """Start it and wait until it answers."""
        (self._port,) = free_ports(1)
        self._process = subprocess.Popen(
            [self._binary, "-host", "127.0.0.1", "-port", str(self._port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                self.request("GET", "/version")
            except OSError:
                assert self._process.poll() is None, "toxiproxy ended at its start"
                assert time.monotonic() < deadline_s, f"toxiproxy isn't up after {START_S:g} s"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Stop it; all its connections end."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_S)

    @contextlib.contextmanager
    def proxy(self, upstream: str) -> Iterator[Proxy]:
        """A healthy way to a server, on a port of its own.

        Args:
            upstream: `host:port`; needs not listen yet.
        """
        self._count += 1
        (port,) = free_ports(1)
        name, address = f"proxy-{self._count}", f"127.0.0.1:{port}"
        self.create(name, address, upstream)
        try:
            yield Proxy(self, name, address, upstream)
        finally:
            self.request("DELETE", f"/proxies/{name}")

    def create(self, name: str, address: str, upstream: str) -> None:
        """Begin to listen at an address, on the way to a server."""
        self.request("POST", "/proxies", {"name": name, "listen": address, "upstream": upstream, "enabled": True})

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call the HTTP API.

        Raises:
            OSError: It doesn't listen.
            AssertionError: It refuses.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=REQUEST_S)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read().decode()
        assert response.status < 300, f"toxiproxy refuses {method} {path}: {response.status} {text}"
        return dict(json.loads(text)) if text.startswith("{") else {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@pytest.fixture(scope="session")
def toxiproxy() -> Iterator[Toxiproxy]:
    """The real toxiproxy, running."""
    with Toxiproxy(tool("toxiproxy")) as running:
        yield running
