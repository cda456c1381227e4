"""kill -9 of the server under full load, again and again: what was acknowledged is there exactly once.

`ROUNDS` (10) is how often it is killed; `SEED` repeats a run's moments. That the judge sees a loss and a double is
itself tested: on servers that were broken on purpose.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from heimdall_client.sync_client import Client
from tests.support.kill_load import Load, check_exactly_once
from tests.support.server_process import ServerProcess, server_process

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("ROUNDS", "10"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1, 2**31)
WRITER_RECORDS_MAX = 30_000
"""Each of the five writers hands over so many records at most between two kills."""
KILL_RECORDS_MAX = 80_000
"""So many records at most come between the round's first acknowledgements and the kill."""
AGAIN_S_MAX = 2.0
"""A server that is killed while it starts has come so far, at most."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path, JOURNAL__SEGMENT_BYTES=str(4 << 20), JOURNAL__RETAIN_BYTES="0") as running:
        yield running


@pytest.mark.timeout(90 + 30 * ROUNDS)
def test_what_was_acknowledged_survives_kills_under_full_load_exactly_once(server: ServerProcess) -> None:
    moments = random.Random(SEED)
    print(f"SEED={SEED}")  # noqa: T201 - shown when it fails
    with Client(server.client_config()) as client, Load(server, client) as load:
        for number in range(ROUNDS):
            load.begin_round(WRITER_RECORDS_MAX)
            load.wait_for_progress()
            load.wait_for_records(moments.randrange(KILL_RECORDS_MAX))
            server.kill()
            if number % 3 == 2:  # once more, in the middle of its recovery
                server.launch()
                time.sleep(moments.uniform(0.0, AGAIN_S_MAX))
                server.kill()
            server.start()
            load.check_durable()
        load.finish()
        for appender in load.appenders:
            assert appender.summary is not None
            assert appender.summary.accepted_count == appender.sent_count
            assert appender.summary.break_count >= 1
        assert sum(exporter.retry_count for exporter in load.exporters) > 0, "no kill hit an export"
        load.check_exactly_once(client)
    server.stop()


@pytest.mark.parametrize(
    ("how", "verdict"),
    [
        ("acknowledges_before_writing", "acknowledged bytes of .* are lost"),
        ("forgets_where_sources_stand", "acknowledged bytes of .* are lost"),
        ("forgets_what_it_answered", "are there twice"),
    ],
)
def test_the_judge_sees_a_broken_server(tmp_path: Path, how: str, verdict: str) -> None:
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with (
        ServerProcess(tmp_path, module=("tests.support.broken_server", how), environment=environment) as server,
        Client(server.client_config()) as client,
        Load(server, client, appender_count=1) as load,
    ):
        load.wait_for_progress()
        if how == "forgets_what_it_answered":
            load.wait_for(lambda: _stored_unacknowledged(client, load), "a stored export that isn't answered")
        server.kill()
        server.start()
        with pytest.raises(AssertionError, match=verdict):
            _judge(client, load)


def _stored_unacknowledged(client: Client, load: Load) -> bool:
    exporter = load.exporters[0]
    acknowledged = exporter.durable
    (row,) = client.search(f"source:{exporter.source} | stats count()")
    return bool(row["count"] > acknowledged and exporter.durable == acknowledged)


def _judge(client: Client, load: Load) -> None:
    load.check_durable()
    load.wait_for_progress()
    load.finish()
    load.check_exactly_once(client)


@pytest.mark.parametrize(
    ("numbers", "verdict"), [([0, 1, 3], "are lost"), ([0, 1, 2, 2, 3], "there twice"), ([0, 1, 2, 3, 4], "never sent")]
)
def test_the_judge_sees_a_loss_a_double_and_a_stranger(numbers: list[int], verdict: str) -> None:
    with pytest.raises(AssertionError, match=verdict):
        check_exactly_once(np.array(numbers), 4, "s")
