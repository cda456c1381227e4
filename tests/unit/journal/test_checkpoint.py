from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from heimdall_server.domain.errors import ConfigurationError, CorruptionError, StoreError
from heimdall_server.projections.checkpoint import Checkpoint, CheckpointFile, Intent

FULL = Checkpoint("j1", {0: 17, 3: 2**40}, Intent(0, 18, 20, 12_345, "t-1"), generation=4)


def test_a_fresh_checkpoint_has_nothing(tmp_path: Path) -> None:
    checkpoint = CheckpointFile(tmp_path / "warm.json").load("j1")
    assert checkpoint == Checkpoint("j1")
    assert checkpoint.position(0) == 0


def test_checkpoints_come_back(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoints" / "warm.json")
    for checkpoint in (FULL, FULL.advanced(0, 20), FULL.rebuilt()):
        file.store(checkpoint)
        assert file.load("j1") == checkpoint
    file.remove()
    file.remove()
    assert file.load("j1") == Checkpoint("j1")


def test_advancing_settles_the_intent() -> None:
    assert FULL.advanced(0, 20) == Checkpoint("j1", {0: 20, 3: 2**40}, None, 4)
    assert FULL.advanced(0, 20).intending(Intent(0, 21, 21, 1, "t-2")).intent == Intent(0, 21, 21, 1, "t-2")
    assert FULL.rebuilt() == Checkpoint("j1", {}, None, 5)


def test_another_journals_checkpoint_is_refused(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "warm.json")
    file.store(FULL)
    with pytest.raises(ConfigurationError, match="j1"):
        file.load("j2")


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "warm.json"
    file = CheckpointFile(path)
    file.store(FULL)
    good = path.read_bytes()
    for i in range(len(good) - 1):
        path.write_bytes(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :])
        try:
            found = file.load("j1")
        except (CorruptionError, ConfigurationError):
            continue
        assert found == FULL, "a change that is taken for good changed nothing"
    for data in (b"", b"{}", b"[]", good[:50]):
        path.write_bytes(data)
        with pytest.raises(CorruptionError, match="remove it"):
            file.load("j1")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "warm.json"
    CheckpointFile(path).store(FULL)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2}))
    with pytest.raises(ConfigurationError, match="upgrade"):
        CheckpointFile(path).load("j1")


def test_a_failing_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = CheckpointFile(tmp_path / "warm.json")
    file.store(FULL)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StoreError, match="checkpoint failed"):
        file.store(FULL.advanced(0, 20))
    assert file.load("j1") == FULL
