"""The real OpenTelemetry Collector: follows a file, keeps its queue on disk, sends it on over mutual TLS.

What it was told survives its kill: the place in the file and the queue are in its storage, and lines are handed from
one to the other without a buffer between (`stanza.synchronousLogEmitter`; without it the Collector itself loses lines).
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Final, Literal, Self

from heimdall_server.crypto.certificate_files import key_path

Protocol = Literal["grpc", "http"]
START_S: Final = 30.0
STOP_S: Final = 30.0
CONSUMERS: Final = 4
"""Requests under way at once."""
BATCH_LINES_MAX: Final = 400
_READY: Final = "Everything is ready"


class Collector:
    """Starts, stops and kills one. What it holds outlives it: start it again.

    Lines are JSON objects with `time` (RFC 3339 with nanoseconds), `body` and whatever else; each becomes a record
    whose time is the line's, so that a request that is sent again is the same to the byte and can be told.

    Args:
        binary: See `deploy/testbed/collector.sh`.
        folder: Where everything of it lies.
        source: The file that it follows.
        service: Name of the service that the records are of.
        protocol: Which of its exporters sends.
        target: Where: `host:port`.
        ca_file: Authority of the server.
        certificate_file: Of the client; its key stands beside it.
        batches: Make batches of what is in the queue, of up to `BATCH_LINES_MAX`. After a kill they are made anew, so
            what was sent before comes in other requests.
    """

    def __init__(
        self,
        binary: Path,
        folder: Path,
        *,
        source: Path,
        service: str,
        protocol: Protocol,
        target: str,
        ca_file: Path,
        certificate_file: Path,
        batches: bool = False,
    ) -> None:
        self.log = folder / "collector.log"
        self._command = [
            str(binary),
            "--config",
            str(folder / "collector.json"),
            "--feature-gates",
            "stanza.synchronousLogEmitter",
        ]
        self._process: subprocess.Popen[bytes] | None = None
        storage = folder / "storage"
        storage.mkdir(parents=True)
        tls = {"ca_file": str(ca_file), "cert_file": str(certificate_file), "key_file": str(key_path(certificate_file))}
        config = _config(source, service, storage, protocol, {"tls": tls, **_destination(protocol, target)})
        if batches:
            sizes = {"flush_timeout": "50ms", "min_size": BATCH_LINES_MAX // 2, "max_size": BATCH_LINES_MAX}
            config["exporters"][f"otlp_{protocol}"]["sending_queue"]["batch"] = sizes
        (folder / "collector.json").write_text(json.dumps(config, indent=2))

    @property
    def running(self) -> bool:
        """Whether it hasn't ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it and wait until it works."""
        assert not self.running
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline_s = time.monotonic() + START_S
        while _READY not in self.log_text(offset):
            if not self.running or time.monotonic() > deadline_s:
                self.kill()
                raise AssertionError(f"the Collector isn't up:\n{self.log_text(offset)[-4_000:]}")
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """SIGTERM; it hands in what it can."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)

    def log_text(self, offset: int = 0) -> str:
        """What it has logged, from a byte on."""
        with self.log.open("rb") as log:
            log.seek(offset)
            return log.read().decode("utf-8", "replace")

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)
            raise

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.kill()


def _destination(protocol: Protocol, target: str) -> dict[str, Any]:
    return {"endpoint": target} if protocol == "grpc" else {"logs_endpoint": f"https://{target}/v1/logs"}


def _config(
    source: Path, service: str, storage: Path, protocol: Protocol, destination: dict[str, Any]
) -> dict[str, Any]:
    exporter = f"otlp_{protocol}"
    return {
        "extensions": {"file_storage": {"directory": str(storage), "timeout": "5s"}},
        "receivers": {
            "file_log": {
                "include": [str(source)],
                "start_at": "beginning",
                "storage": "file_storage",
                "poll_interval": "50ms",
                "resource": {"service.name": service},
                "operators": [
                    {
                        "type": "json_parser",
                        "timestamp": {
                            "parse_from": "attributes.time",
                            "layout_type": "gotime",
                            "layout": "2006-01-02T15:04:05.999999999Z07:00",
                        },
                    },
                    {"type": "move", "from": "attributes.body", "to": "body"},
                ],
            }
        },
        "exporters": {
            exporter: {
                **destination,
                "timeout": "3s",
                # It waits for the queue rather than drop, and tries until it is heard.
                "sending_queue": {
                    "storage": "file_storage",
                    "num_consumers": CONSUMERS,
                    "queue_size": 20_000,
                    "block_on_overflow": True,
                },
                "retry_on_failure": {"initial_interval": "100ms", "max_interval": "500ms", "max_elapsed_time": "0s"},
            }
        },
        "service": {
            "extensions": ["file_storage"],
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"logs": {"receivers": ["file_log"], "exporters": [exporter]}},
        },
    }
