"""A server of one's own to measure: fresh data folder, free ports, the real program in its own process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

START_WAIT_S = 60.0


@dataclass
class Instance:
    """A running server."""

    folder: Path
    address: str
    process: psutil.Process

    def channel(self) -> grpc.Channel:
        """A connection of its own: channels of one process share one otherwise."""
        certs = self.folder / ".heimdall" / "certs"
        credentials = grpc.ssl_channel_credentials(
            (certs / "ca.pem").read_bytes(),
            (certs / "client-key.pem").read_bytes(),
            (certs / "client.pem").read_bytes(),
        )
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 8 << 20)]
        return grpc.secure_channel(self.address, credentials, options)

    def cpu_s(self) -> float:
        """CPU seconds of the server so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rss_bytes(self) -> int:
        """Resident memory of the server."""
        return int(self.process.memory_info().rss)


@contextmanager
def running(**variables: str) -> Iterator[Instance]:
    """Start a server, and stop it and delete its data at the end."""
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-") as name:
        folder = Path(name)
        port = _free_port()
        environment = {
            **os.environ,
            "HEIMDALL_LISTEN__MESH_ADDRESS": f"127.0.0.1:{port}",
            "HEIMDALL_LISTEN__OTLP_ADDRESS": "",
            "HEIMDALL_METRICS_ADDRESS": "",
            **variables,
        }
        _run([str(Path(sys.executable).with_name("heimdall")), "certs", "init"], folder, environment)
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [str(Path(sys.executable).with_name("heimdall-server"))],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        instance = Instance(folder, f"127.0.0.1:{port}", psutil.Process(process.pid))
        try:
            _wait_until_healthy(instance, process)
            yield instance
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_healthy(instance: Instance, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_WAIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with instance.channel() as channel:
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            time.sleep(0.1)
        else:
            return
    message = f"the server didn't start:\n{(instance.folder / 'server.log').read_text()[-2000:]}"
    raise RuntimeError(message)


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
