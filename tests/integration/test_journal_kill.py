"""kill -9 while a journal is being written: what was acknowledged is there, once, in order."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

from tests.support.journal import LastOffsets, opened, read_all, small_config

ROUNDS = 5
ROOT = Path(__file__).parents[2]


def feed_and_kill(directory: Path, after_s: float) -> list[tuple[int, str, int]]:
    """What a process acknowledged before it was killed: position, name, rows."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.journal_feeder", str(directory)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    with process.stdout as lines:
        first = lines.readline()
        killer = threading.Timer(after_s, process.kill)
        killer.start()
        acknowledged = [first, *lines]
    process.wait()
    killer.join()
    assert process.returncode == -9
    return [(int(line[0]), line[1], int(line[2])) for line in (raw.decode().split() for raw in acknowledged)]


async def test_acknowledged_frames_survive_kill_9_once_and_in_order(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    chance = random.SystemRandom()
    acknowledged: dict[int, tuple[str, int]] = {}
    for _ in range(ROUNDS):
        for position, name, rows in feed_and_kill(directory, chance.uniform(0.0, 0.5)):
            assert position not in acknowledged
            acknowledged[position] = (name, rows)
        async with opened(small_config(directory, bytes_max=1 << 30)) as journal:
            state = LastOffsets()
            await journal.maintain(state)
            frames = await read_all(journal)
        assert [frame.position for frame in frames] == list(range(1, len(frames) + 1))
        records = [frame for frame in frames if frame.entry.snapshot is None]
        found = {frame.position: (frame.entry.sources[0].key.source, frame.row_count) for frame in records}
        assert {position: found.get(position) for position in acknowledged} == acknowledged
        names = [name for name, _ in found.values()]
        assert len(set(names)) == len(names)
        assert state.offsets == dict(found.values())
        for frame in records:
            assert frame.entry.batch is not None
            assert frame.entry.batch.num_rows == frame.row_count
    assert len(acknowledged) >= ROUNDS
