"""Run Heimdall on this machine: what `make up`, `make down` and `make clean` call.

`up` starts one server in the background and returns when it is healthy; `down` stops it, `clean` deletes what it kept.
Only `up` needs the project's packages, so the other two work with a broken configuration or environment, too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from local_process import POLL_S, LocalError, PidFile, alone, find_data_dir, say, shown, stop

if TYPE_CHECKING:
    from heimdall_client import Client, ClientConfig
    from heimdall_server.config import Config

START_S: Final = 60.0
"""A start takes seconds; one that has a long journal to look through may take longer, and goes on."""
LOG_BYTES_MAX: Final = 50 * 1024 * 1024
LOG_LINES_SHOWN: Final = 15
SAMPLE_COUNT: Final = 200_000
SAMPLE_SEED: Final = 1
SAMPLE_SPAN_S: Final = 24 * 3600.0
SAMPLE_SOURCE: Final = "samples/shop"
SAMPLE_DATASET: Final = "samples"
QUERY: Final = "severity:>=ERROR | stats count() by service | sort -count"
OURS: Final = ("certs", "heimdall.toml", "journal", "keys", "server.log", "server.pid")
"""What tells a folder of ours; another one isn't deleted."""
QUIET: Final = ("GRPC_VERBOSITY", "NONE")
"""Asking whether the server is there yet fails by nature, so gRPC needn't tell; the server itself should."""
HINTS: Final[Mapping[str, str]] = {
    "can't listen on": "free the port, or choose others: HEIMDALL_LISTEN__MESH_ADDRESS, HEIMDALL_LISTEN__OTLP_ADDRESS, "
    "HEIMDALL_LISTEN__HTTP_ADDRESS, HEIMDALL_METRICS_ADDRESS (or the same keys in heimdall.toml)",
    "is in use by process": "another server has this data folder: stop that process, or set HEIMDALL_DATA_DIR",
    "fingerprint": "the data was written under another key: put that key back, or `make clean` to start anew without "
    "the data",
    "not valid now": "`heimdall certs renew` makes new certificates",
    "No space left": "free some disk space",
}
"""What the server's log says → what to do about it."""


def up(*, sample_count: int) -> None:
    """Start the server, wait until it is healthy, feed the sample logs once, show what to do next.

    Args:
        sample_count: Sample logs to append if there are none yet; 0: none.

    Raises:
        LocalError: It can't be started; the last lines of its log are in the text.
    """
    from heimdall_server import config as configuration

    data_dir = find_data_dir()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(data_dir):
        config, _ = configuration.load()
        connection = _certificates(config)
        pid_file = PidFile(config.data_dir)
        pid = pid_file.running()
        note = ""
        if pid is not None:
            note = f"   already running, process {pid}"
            _wait_healthy(connection, None, config.data_dir / "server.log", 0)
        elif _is_healthy(connection):
            note = "   already running, started by somebody else"
        else:
            _start(config, connection, pid_file)
        _report(config, connection, note, sample_count)


def down() -> None:
    """Stop the server: let it drain, and only if that takes too long, not.

    Raises:
        LocalError: It doesn't end, or somebody else's server has the data.
    """
    data_dir = find_data_dir()
    if not data_dir.is_dir():
        say("Heimdall is down", "there was nothing to stop")
        return
    with alone(data_dir):
        stop(data_dir)


def clean(*, yes: bool) -> None:
    """Stop the server and delete its folder.

    Args:
        yes: Don't ask. Without a terminal there is nobody to ask, either.

    Raises:
        LocalError: The server runs on, or the folder doesn't look like ours.
    """
    data_dir = find_data_dir()
    if not data_dir.is_dir():
        say("Nothing to clean", f"{shown(data_dir)} doesn't exist")
        return
    if not any((data_dir / name).exists() for name in OURS):
        msg = f"{data_dir} doesn't look like a folder of Heimdall's: not deleted"
        raise LocalError(msg)
    if not yes and sys.stdin.isatty():
        answer = input(f"delete {shown(data_dir)} with all data, keys, certificates and its configuration? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            say("Nothing deleted")
            return
    with alone(data_dir):
        stop(data_dir, only_if_running=True)
        elsewhere = postgres_place(data_dir)
        if elsewhere is not None:
            shutil.rmtree(elsewhere)
        shutil.rmtree(data_dir)
    say("Deleted", shown(data_dir))


def postgres_place(data_dir: Path) -> Path | None:
    """Where the embedded PostgreSQL keeps its data, if that isn't in the data folder (as root it can't be).

    Args:
        data_dir: The data folder.

    Returns:
        A folder that is named by the data folder and names it in turn; None: there is none, or it is somebody else's.
    """
    try:
        place = Path((data_dir / "postgres" / "place").read_text().strip())
        owner = Path((place / "data_dir").read_text().strip())
    except OSError:
        return None
    return place if owner == data_dir.resolve() else None


def _certificates(config: Config) -> ClientConfig:
    """Mint what is missing, renew what gets old, and tell how to connect."""
    import typer

    from heimdall_client import load_config
    from heimdall_server.rpc import certs_command
    from heimdall_server.rpc.server import split_address

    host, port = split_address(config.listen.mesh_address)
    if not port:
        msg = "listen.mesh_address: needs a port of its own here, not 0"
        raise LocalError(msg)
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    address = f"[{reachable}]:{port}" if ":" in reachable else f"{reachable}:{port}"
    directory = config.data_dir / "certs"
    client_toml = config.data_dir / "client.toml"
    if config.tls.certificate_file == directory / "server.pem":
        is_number = reachable.replace(".", "").isdecimal() or ":" in reachable
        try:
            with contextlib.redirect_stdout(None):
                certs_command.init(
                    directory=directory,
                    client_config=client_toml,
                    address=address,
                    dns=None if is_number else [reachable],
                    ip=[reachable] if is_number else None,
                )
        except typer.Exit as error:  # it has said why
            msg = f"the certificates in {shown(directory)} can't be made or renewed"
            raise LocalError(msg) from error
        _follow_address(client_toml, address)
    return load_config(config_file=client_toml, address=address, environ={})


def _follow_address(client_toml: Path, address: str) -> None:
    """The server may have moved since client.toml was written, which the command finds it by."""
    lines = client_toml.read_text().splitlines()
    wanted = [f'address = "{address}"' if line.startswith("address = ") else line for line in lines]
    if wanted != lines:
        client_toml.write_text("\n".join(wanted) + "\n")


def _start(config: Config, connection: ClientConfig, pid_file: PidFile) -> None:
    log = config.data_dir / "server.log"
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name("server.log.1"))
    begin = log.stat().st_size if log.exists() else 0
    environment = {name: value for name, value in os.environ.items() if name != QUIET[0]}
    process = pid_file.start([sys.executable, "-m", "heimdall_server"], log, environment)
    _wait_healthy(connection, process, log, begin)


def _wait_healthy(connection: ClientConfig, process: subprocess.Popen[bytes] | None, log: Path, begin: int) -> None:
    deadline_s = time.monotonic() + START_S
    while not _is_healthy(connection):
        if process is not None and process.poll() is not None:
            msg = f"the server ended with exit code {process.returncode}{_last_lines(log, begin)}"
            raise LocalError(msg)
        if time.monotonic() > deadline_s:
            msg = (
                f"the server isn't healthy after {START_S:.0f} s{_last_lines(log, begin)}\n"
                "if it is still busy (`make logs` follows it), run `make up` again; `make down` stops it"
            )
            raise LocalError(msg)
        time.sleep(POLL_S)


def _last_lines(log: Path, begin: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(begin, log.stat().st_size - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    hints = "".join(f"\n{hint}" for needle, hint in HINTS.items() if needle in text)
    lines = "".join(f"\n  {line}" for line in text.splitlines()[-LOG_LINES_SHOWN:])
    return f"; {log} says{lines or ' nothing'}{hints}"


def _is_healthy(connection: ClientConfig) -> bool:
    """Ask over mutual TLS whether the whole server serves."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    credentials = grpc.ssl_channel_credentials(
        connection.ca_file.read_bytes(), connection.key_file.read_bytes(), connection.cert_file.read_bytes()
    )
    with grpc.secure_channel(connection.address, credentials) as channel:
        request = health_pb2.HealthCheckRequest()
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=2.0)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _report(config: Config, connection: ClientConfig, note: str, sample_count: int) -> None:
    from heimdall_client.sync_client import Client

    metrics = f"   metrics http://{config.metrics_address}/metrics" if config.metrics_address else ""
    otlp = f"   otlp {config.listen.otlp_address}" if config.listen.otlp_address else ""
    http = f"   http {config.listen.http_address}" if config.listen.http_address else ""
    data = f"   data {shown(config.data_dir)}"
    say("Heimdall is up", f"grpc {config.listen.mesh_address}{otlp}{http}{metrics}{data}{note}")
    with Client(connection) as client:
        if "ingest" in config.services and sample_count:
            _feed_samples(client, sample_count)
        if "query" in config.services:
            command = shown(Path(sys.executable).parent / "heimdall", folder=False)
            print(f"try:  {command} query '{QUERY}'", flush=True)
            _show_table([[str(value) for value in row.values()] for row in client.search(QUERY, consistent=True)])


def _feed_samples(client: Client, count: int) -> None:
    from heimdall_client.samples import sample_ndjson

    source = client.get_source(SAMPLE_SOURCE)
    if source.finished:
        say(f"{source.accepted_count:,} sample logs", "are there already")
        return
    # All lines are as long whatever the time, so a run that was cut off goes on in the same place.
    lines = b"".join(
        sample_ndjson(count, seed=SAMPLE_SEED, end_time_ns=time.time_ns(), span_s=SAMPLE_SPAN_S),
    )
    begin_s = time.monotonic()
    with client.ingester(SAMPLE_SOURCE, format="ndjson", dataset=SAMPLE_DATASET) as ingester:
        ingester.write(memoryview(lines)[ingester.offset :])
        ingester.finish()
    say(f"{count:,} sample logs", f"acknowledged in {time.monotonic() - begin_s:.1f} s")


def _show_table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        name, *counts = row
        cells = [f"{count:>{width}}" for count, width in zip(counts, widths[1:], strict=True)]
        print("      " + "  ".join([f"{name:<{widths[0]}}", *cells]), flush=True)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="deploy/local.py", description="Run Heimdall on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="start it in the background, with sample logs")
    start.add_argument("--samples", type=int, default=SAMPLE_COUNT, metavar="N", help="sample logs; 0: none")
    commands.add_parser("down", help="stop it; the data stays")
    delete = commands.add_parser("clean", help="stop it and delete its data, keys and certificates")
    delete.add_argument("--yes", action="store_true", help="don't ask")
    arguments = parser.parse_args()
    problems: tuple[type[Exception], ...] = (LocalError, OSError)
    if arguments.command == "up":
        os.environ.setdefault(*QUIET)
        from heimdall_client import HeimdallError as ClientError
        from heimdall_server.domain.errors import HeimdallError as ServerError

        problems += (ClientError, ServerError)
    try:
        if arguments.command == "up":
            up(sample_count=max(0, arguments.samples))
        elif arguments.command == "down":
            down()
        else:
            clean(yes=arguments.yes)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python flushes at exit has nowhere to go
        return 1
    except problems as error:
        print(f"heimdall: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
