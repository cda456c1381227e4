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
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from heimdall_server.crypto.certificate_files import CertificateFolder, key_path
from heimdall_server.crypto.certificates import LeafNames, authority_trust_domain, mint_leaf
from heimdall_server.domain.identity import SpiffeId
from tests.support.postgres import remove_place

START_WAIT_S = 60.0
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 8 << 20)]


@dataclass
class Instance:
    """A running server."""

    folder: Path
    address: str
    process: psutil.Process

    def channel(self) -> grpc.Channel:
        """A connection of its own: channels of one process share one otherwise."""
        return grpc.secure_channel(self.address, self.credentials(), CHANNEL_OPTIONS)

    def credentials(self, name: str = "client") -> grpc.ChannelCredentials:
        """Of a client of some name; its certificate is issued when it is first asked for."""
        certs = self.folder / ".heimdall" / "certs"
        leaf = certs / f"{name}.pem"
        if not leaf.is_file():
            folder = CertificateFolder(certs)
            authority = folder.authority()
            identity = SpiffeId(authority_trust_domain(authority.certificate), "client", name)
            folder.write_leaf(leaf, mint_leaf(authority, LeafNames(identity)))
        return grpc.ssl_channel_credentials(
            (certs / "ca.pem").read_bytes(), key_path(leaf).read_bytes(), leaf.read_bytes()
        )

    def cpu_s(self) -> float:
        """CPU seconds of the server so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def vault_cpu_s(self) -> float:
        """CPU seconds of the PostgreSQL that the server runs so far; 0 if it runs none."""
        times = [child.cpu_times() for child in self.process.children(recursive=True)]
        # What ended, such as workers, is with the postmaster.
        return float(sum(one.user + one.system + one.children_user + one.children_system for one in times))

    def rss_bytes(self) -> int:
        """Resident memory of the server."""
        return int(self.process.memory_info().rss)


@contextmanager
def running(kept: Path | None = None, /, **variables: str) -> Iterator[Instance]:
    """Start a server, and stop it at the end.

    Args:
        kept: Folder to run in, whose `.heimdall` may hold a store; none: a fresh one, deleted at the end.
        variables: Of the environment.
    """
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory(prefix="heimdall-bench-") as name:
        folder = Path(name)
        port = _free_port()
        environment = {
            **os.environ,
            "HEIMDALL_LISTEN__MESH_ADDRESS": f"127.0.0.1:{port}",
            "HEIMDALL_LISTEN__OTLP_ADDRESS": "",
            "HEIMDALL_LISTEN__HTTP_ADDRESS": "",
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
            if kept is None:
                remove_place(folder / ".heimdall")


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
