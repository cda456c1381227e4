"""A real `heimdall-server` in a process of its own, with its own folder, certificates and ports."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import grpc
import pytest

from heimdall_client import Client, ClientConfig
from heimdall_server.crypto.certificate_files import key_path
from tests.support.pki import Pki
from tests.support.postgres import remove_place

START_S: Final = 60.0
STOP_S: Final = 30.0
SMALL: Final = {
    "HEIMDALL_JOURNAL__DISK_RESERVE_BYTES": str(64 * 1024 * 1024),
    "HEIMDALL_WARM__MEMORY_BYTES_MAX": str(1024 * 1024 * 1024),
    "HEIMDALL_SERVICES": '["ingest","query","admin"]',
}
"""Variables for a server that shares its machine with others, and needs no vault."""


class ServerProcess:
    """Starts, kills and stops a server. What it has taken in outlives it: start it again in the same folder.

    Clients named `admin` (everything) and `writer` (write and read) have certificates.

    Args:
        folder: Where everything of it lies.
        environment: Further `HEIMDALL_…` variables.
        metrics: Serve metrics, too.
        module: What runs; another one is a server that a test breaks on purpose.
    """

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        metrics: bool = False,
        module: Sequence[str] = ("heimdall_server",),
    ) -> None:
        self.data_dir = folder / "data"
        # Not when it is stopped: a test may start it again on what it has.
        atexit.register(remove_place, self.data_dir)
        self.certs = self.data_dir / "certs"
        self.log = folder / "server.log"
        self.client_file = folder / "client.toml"
        """For `heimdall --config`."""
        self.address = "127.0.0.1:0"
        self.otlp_address = "127.0.0.1:0"
        self.http_address = "127.0.0.1:0"
        self.metrics_address = f"127.0.0.1:{free_ports(1)[0]}" if metrics else ""
        self._environment = {**SMALL, **(environment or {})}
        self._module = tuple(module)
        self._process: subprocess.Popen[bytes] | None = None
        self.certs.mkdir(parents=True, exist_ok=True)
        self.pki = Pki(self.certs)
        self.pki.write("server", self.pki.server_leaf())
        for name in ("admin", "writer"):
            self.pki.write(name, self.pki.leaf(name))

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it hasn't ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, *arguments: str, timeout_s: float = START_S) -> Self:
        """Start it and wait until it serves. It keeps the ports of its first start.

        Args:
            arguments: Further ones for the command line.
            timeout_s: How long it may take.
        """
        offset = self.launch(*arguments)
        deadline_s = time.monotonic() + timeout_s
        while not self._has_started(offset):
            if not self.running:
                raise AssertionError(f"the server ended at its start:\n{self.log_text(offset)}")
            if time.monotonic() > deadline_s:
                self.kill()
                raise AssertionError(f"the server isn't up after {timeout_s:g} s:\n{self.log_text(offset)}")
            time.sleep(0.05)
        self._write_client_file()
        return self

    def launch(self, *arguments: str) -> int:
        """Start it without waiting for anything; returns where in its log this run begins."""
        assert not self.running
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._module, *arguments],
                env=self._variables(),
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return offset

    def kill(self) -> None:
        """SIGKILL: as if the power went, but for what the kernel holds."""
        self._signal(signal.SIGKILL)
        self._wait(STOP_S)

    def stop(self, *, timeout_s: float = STOP_S) -> int:
        """SIGTERM; returns the exit code.

        Args:
            timeout_s: How long draining may take; then it is killed, which is a failure.
        """
        self._signal(signal.SIGTERM)
        try:
            return self._wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def client_config(self, name: str = "admin") -> ClientConfig:
        """A client's configuration, by the name in its certificate."""
        path = self.certs / f"{name}.pem"
        return ClientConfig(self.address, self.pki.ca_file, path, key_path(path))

    def client(self, name: str = "admin") -> Client:
        """A client by the name in its certificate."""
        return Client(self.client_config(name))

    def credentials(self, name: str = "admin") -> grpc.ChannelCredentials:
        """A client's credentials, for a channel that isn't the SDK's."""
        config = self.client_config(name)
        return grpc.ssl_channel_credentials(
            config.ca_file.read_bytes(), config.key_file.read_bytes(), config.cert_file.read_bytes()
        )

    def log_text(self, offset: int = 0) -> str:
        """What it has logged, from a byte on."""
        with self.log.open("rb") as log:
            log.seek(offset)
            return log.read().decode("utf-8", "replace")

    def events(self, offset: int = 0) -> list[dict[str, Any]]:
        """Its log as events; lines that aren't JSON (gRPC's own) are left out."""
        found = []
        for line in self.log_text(offset).splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                if isinstance(event, dict):
                    found.append(event)
        return found

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.stop()

    def _variables(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HEIMDALL_")}
        return {
            **kept,
            "HEIMDALL_DATA_DIR": str(self.data_dir),
            "HEIMDALL_LISTEN__MESH_ADDRESS": self.address,
            "HEIMDALL_LISTEN__OTLP_ADDRESS": self.otlp_address,
            "HEIMDALL_LISTEN__HTTP_ADDRESS": self.http_address,
            "HEIMDALL_METRICS_ADDRESS": self.metrics_address,
            **self._environment,
        }

    def _has_started(self, offset: int) -> bool:
        events = self.events(offset)
        for event in events:
            if event.get("event") == "listening":
                self.address = event["addresses"]["mesh"]
                self.otlp_address = event["addresses"].get("otlp", "")
            if event.get("event") == "listening for HTTP":
                self.http_address = event["address"]
        return any(event.get("event") == "started" for event in events)

    def _write_client_file(self) -> None:
        config = self.client_config()
        values = {
            "address": config.address,
            "ca_file": config.ca_file,
            "cert_file": config.cert_file,
            "key_file": config.key_file,
        }
        self.client_file.write_text("".join(f"{key} = {json.dumps(str(value))}\n" for key, value in values.items()))

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _wait(self, timeout_s: float) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)


@contextlib.contextmanager
def server_process(folder: Path, **settings: str) -> Iterator[ServerProcess]:
    """A running server.

    Args:
        folder: Where everything of it lies.
        settings: Variables without their prefix: `JOURNAL__RETAIN_BYTES="0"`.
    """
    environment = {f"HEIMDALL_{name}": value for name, value in settings.items()}
    with ServerProcess(folder, environment=environment) as process:
        yield process


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens at just now."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One running server for all tests of a session that only add to it."""
    with ServerProcess(tmp_path_factory.mktemp("server")) as process:
        yield process
