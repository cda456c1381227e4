"""The real OpenTelemetry Collector in front of a real server, its network cut and itself killed at random moments.

It follows a file and keeps its queue on disk. Nothing may be lost. An Export that was stored although its answer was
lost comes again, the same to the byte, and is told: no duplicate. A kill may also make the Collector read lines again
that it had handed on, in other requests than before: those can't be told, come twice, and are counted here.

`ROUNDS` says how often each case is played, each time with another seed; `SEED` is that of the first.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import logging
import os
import random
import re
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from heimdall_client.sync_client import Client
from tests.support.collector import BATCH_LINES_MAX, CONSUMERS, Collector, Protocol
from tests.support.server_process import ServerProcess
from tests.support.toxiproxy import Proxy, Toxiproxy

pytestmark = [pytest.mark.testbed, pytest.mark.timeout(1_500)]

LOG: Final = logging.getLogger(__name__)
ROUNDS: Final = int(os.environ.get("ROUNDS", "1"))
SEED: Final = int(os.environ.get("SEED", "20261124"))
LINES: Final = 4_500
WRITE_S: Final = 3.0
READ_AGAIN_MAX: Final = 1_500
"""Lines that were written within a second: many times what the Collector reads between two notes of its place."""
ARRIVE_S: Final = 60.0
_REPEATED: Final = re.compile(r'^heimdall_ingest_repeated_total\{door="otlp"\} (\S+)$', re.MULTILINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of this module's own, with metrics."""
    with ServerProcess(tmp_path_factory.mktemp("collector"), metrics=True) as process:
        process.pki.write("collector", process.pki.leaf("collector"))
        yield process


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.client_config()) as client:
        yield client


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest, server: ServerProcess) -> Protocol:
    """Which door it sends to."""
    chosen: Protocol = request.param
    if chosen == "http" and not _address(server, "http"):
        pytest.skip("this server has no HTTP edge")
    return chosen


@pytest.fixture
def proxy(toxiproxy: Toxiproxy, server: ServerProcess, protocol: Protocol) -> Iterator[Proxy]:
    with toxiproxy.proxy(_address(server, protocol)) as proxy:
        yield proxy


def _address(server: ServerProcess, protocol: Protocol) -> str:
    return server.otlp_address if protocol == "grpc" else server.http_address


class Writer(threading.Thread):
    """Appends numbered lines to a file, a little at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="lines", daemon=True)
        self._path = path
        path.touch()

    def run(self) -> None:
        steps = 100
        with self._path.open("a") as file:
            for step in range(steps):
                for number in range(step * LINES // steps, (step + 1) * LINES // steps):
                    now = dt.datetime.now(dt.UTC).isoformat()
                    line = {"time": now, "body": f"order {number} paid", "number": number, "level": "info"}
                    file.write(json.dumps(line) + "\n")
                file.flush()
                time.sleep(WRITE_S / steps)


def _counts(client: Client, service: str) -> dict[int, int]:
    """Number of a line → how often it is stored."""
    rows = client.search(f"service:{service} | stats count() by number | limit 100000", consistent=True)
    return {int(row["number"]): int(row["count"]) for row in rows}


def _wait_for_all(client: Client, service: str) -> dict[int, int]:
    deadline_s = time.monotonic() + ARRIVE_S
    while len(counts := _counts(client, service)) < LINES:
        missing = sorted(set(range(LINES)) - set(counts))
        assert time.monotonic() < deadline_s, f"{len(missing)} lines are missing, the first ones {missing[:10]}"
        time.sleep(0.2)
    return counts


def _repeated(server: ServerProcess) -> int:
    """Exports that the server told to be repeats."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        found = _REPEATED.search(answer.read().decode())
    return int(float(found[1])) if found else 0


def _lost_answers(proxy: Proxy, random_: random.Random) -> None:
    """Requests get through and are stored; their answers don't, and then all connections are cut."""
    # Toxics that hold bytes back aren't used here: toxiproxy may wait for ever to take one from a dead connection.
    toxic = proxy.silence(stream="downstream")
    time.sleep(random_.uniform(0.1, 0.6))
    with proxy.disabled():
        proxy.remove(toxic)


def _reset(proxy: Proxy, random_: random.Random) -> None:
    """Connections are reset."""
    toxic = proxy.reset(after_ms=random_.randrange(50), stream="downstream")
    time.sleep(random_.uniform(0.05, 0.2))
    proxy.remove(toxic)


def _cut(proxy: Proxy, random_: random.Random) -> None:
    """Nobody gets through for a while."""
    with proxy.disabled():
        time.sleep(random_.uniform(0.05, 0.5))


FAULTS: Final[tuple[Callable[[Proxy, random.Random], None], ...]] = (_lost_answers, _cut, _reset)


@pytest.mark.parametrize("round_", range(ROUNDS))
@pytest.mark.parametrize(
    ("kills", "batches"),
    [(False, False), (True, False), (True, True)],
    ids=["cut", "cut and killed", "cut and killed with batches"],
)
def test_nothing_is_lost_and_identical_retries_are_stored_once(
    otelcol: Path,
    server: ServerProcess,
    client: Client,
    proxy: Proxy,
    protocol: Protocol,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    *,
    kills: bool,
    batches: bool,
    round_: int,
) -> None:
    random_ = random.Random(SEED + round_)
    service = f"svc{uuid.uuid4().hex[:12]}"
    source = tmp_path / "app.log"
    writer = Writer(source)
    repeated_before = _repeated(server)
    collector = Collector(
        otelcol,
        tmp_path / "collector",
        source=source,
        service=service,
        protocol=protocol,
        target=proxy.address,
        ca_file=server.pki.ca_file,
        certificate_file=server.certs / "collector.pem",
        batches=batches,
    )
    kill_count = 0
    with collector:
        writer.start()
        faults = itertools.cycle(random_.sample(FAULTS, len(FAULTS)))
        while writer.is_alive():
            time.sleep(random_.uniform(0.05, 0.4))
            next(faults)(proxy, random_)
            if kills and random_.random() < 0.5:
                collector.kill()
                kill_count += 1
                time.sleep(random_.uniform(0, 0.1))
                collector.start()
        writer.join()
        proxy.heal()
        if kills and not kill_count:
            collector.kill()
            kill_count += 1
            collector.start()
        counts = _wait_for_all(client, service)
        # What comes again now would be a repeat that wasn't told.
        time.sleep(1.0)
        counts = _counts(client, service)
    assert set(counts) == set(range(LINES))
    doubled = sum(count - 1 for count in counts.values())
    told = _repeated(server) - repeated_before
    for name, value in (("kills", kill_count), ("duplicates", doubled), ("repeats told", told)):
        record_property(name, value)
    LOG.warning("%s: %d kills, %d duplicates, %d repeats told", protocol, kill_count, doubled, told)
    if not kills:
        assert doubled == 0, "identical retries were stored twice"
        assert told > 0, "no answer was lost: nothing was shown"
    else:
        # What was under way in other requests than now, and what the file was read of beyond its remembered place.
        per_kill = CONSUMERS * BATCH_LINES_MAX * batches + READ_AGAIN_MAX
        assert doubled <= kill_count * per_kill
