"""`deploy/local.py`, as make calls it: up, again up, down, up with the data still there, clean."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.server_process import SMALL, free_ports

SCRIPT = Path(__file__).parents[2] / "deploy" / "local.py"
SAMPLES = 3_000


@dataclass
class Place:
    """A working directory with ports of its own."""

    folder: Path
    environment: dict[str, str]

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, SCRIPT, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def up(self, samples: int = SAMPLES) -> list[str]:
        return self.run("up", "--samples", str(samples)).splitlines()

    @property
    def data(self) -> Path:
        return self.folder / ".heimdall"

    @property
    def pid(self) -> int:
        return int((self.data / "server.pid").read_text())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    mesh, otlp, http, metrics = free_ports(4)
    ours = {
        "HEIMDALL_LISTEN__MESH_ADDRESS": f"127.0.0.1:{mesh}",
        "HEIMDALL_LISTEN__OTLP_ADDRESS": f"127.0.0.1:{otlp}",
        "HEIMDALL_LISTEN__HTTP_ADDRESS": f"127.0.0.1:{http}",
        "HEIMDALL_METRICS_ADDRESS": f"127.0.0.1:{metrics}",
        **{name: value for name, value in SMALL.items() if name != "HEIMDALL_SERVICES"},
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEIMDALL_")}
    place = Place(tmp_path, {**inherited, **ours})
    yield place
    place.run("clean", "--yes")


def _table(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("      ")]


def test_up_starts_a_server_with_samples_and_down_keeps_them(place: Place) -> None:
    first = place.up()
    mesh = place.environment["HEIMDALL_LISTEN__MESH_ADDRESS"]
    otlp = place.environment["HEIMDALL_LISTEN__OTLP_ADDRESS"]
    http = place.environment["HEIMDALL_LISTEN__HTTP_ADDRESS"]
    metrics = place.environment["HEIMDALL_METRICS_ADDRESS"]
    assert first[0] == (
        f"Heimdall is up       grpc {mesh}   otlp {otlp}   http {http}   metrics http://{metrics}/metrics   data .heimdall/"
    )
    assert first[1].startswith("3,000 sample logs    acknowledged in ")
    assert first[2].endswith("/heimdall query 'severity:>=ERROR | stats count() by service | sort -count'")
    assert _table(first)
    pid = place.pid

    second = place.up()
    assert second[0] == f"{first[0]}   already running, process {pid}"
    assert second[1] == "3,000 sample logs    are there already"
    assert _table(second) == _table(first)
    assert place.pid == pid

    assert "drained in" in place.run("down")
    assert "it didn't run" in place.run("down")

    (port,) = free_ports(1)
    place.environment["HEIMDALL_LISTEN__MESH_ADDRESS"] = f"127.0.0.1:{port}"
    third = place.up()
    assert "already running" not in third[0]
    assert third[0].startswith(f"Heimdall is up       grpc 127.0.0.1:{port}   ")
    assert _table(third) == _table(first)
    # The command finds the server by this file, wherever it moved to.
    assert f'address = "127.0.0.1:{port}"' in (place.data / "client.toml").read_text().splitlines()

    os.kill(place.pid, signal.SIGKILL)
    fourth = place.up()
    assert "already running" not in fourth[0]
    assert fourth[1:] == third[1:]


def test_stale_files_do_no_harm_and_clean_needs_no_terminal(place: Place) -> None:
    place.data.mkdir(mode=0o700)
    (place.data / "server.pid").write_text(f"{os.getpid()}\n")  # a process that isn't ours
    with (place.data / "server.log").open("wb") as log:
        log.truncate(51 * 1024 * 1024)
    assert "it didn't run" in place.run("down")

    assert "already running" not in place.up(0)[0]
    assert (place.data / "server.log.1").stat().st_size == 51 * 1024 * 1024
    assert '"event":"started"' in (place.data / "server.log").read_text()

    said = place.run("clean")
    assert "drained in" in said
    assert "Deleted" in said
    assert not place.data.exists()
    assert "doesn't exist" in place.run("clean")


def test_up_says_which_port_is_taken_and_what_to_do(place: Place) -> None:
    host, _, port = place.environment["HEIMDALL_METRICS_ADDRESS"].partition(":")
    with socket.create_server((host, int(port))):
        said = place.run("up", "--samples", "0", code=1)
    assert f"can't listen on {host}:{port}" in said
    assert "HEIMDALL_METRICS_ADDRESS" in said


def test_problems_of_the_configuration_are_told_at_once(place: Place) -> None:
    place.data.mkdir(mode=0o700)
    (place.data / "heimdall.toml").write_text('log_level = "LOUD"\nno_such_key = 1\n')
    said = place.run("up", code=1)
    assert "log_level" in said
    assert "no_such_key" in said


def test_clean_spares_a_folder_that_is_not_ours(place: Place) -> None:
    precious = place.folder / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    place.environment["HEIMDALL_DATA_DIR"] = str(precious)
    assert "doesn't look like" in place.run("clean", "--yes", code=1)
    assert (precious / "thesis.txt").exists()
    del place.environment["HEIMDALL_DATA_DIR"]
