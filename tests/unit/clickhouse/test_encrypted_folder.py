"""The embedded engine's folder, encrypted. Each engine lives in a process of its own: one process has one folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from pathlib import Path
from heimdall_server.storage.clickhouse.embedded import ChdbEngine

folder, key, statement = Path(sys.argv[1]), bytes.fromhex(sys.argv[2]) or None, sys.argv[3]
engine = ChdbEngine(folder, memory_bytes_max=1 << 30, key=key)
connection = engine.connect()
assert not any("PART_KEY" in name for name in os.environ)
connection.command("CREATE DATABASE IF NOT EXISTS d")
connection.command(
    "CREATE TABLE IF NOT EXISTS d.t (n UInt64, s String, INDEX i lower(s) TYPE text(tokenizer = splitByNonAlpha)) "
    "ENGINE = MergeTree ORDER BY n SETTINGS min_level_for_wide_part = 1"
)
if statement:
    connection.command(statement)
connection.command("OPTIMIZE TABLE d.t FINAL")
print(connection.table("SELECT count() AS n FROM d.t WHERE hasToken(lower(s), 'plaintextmarker')")["n"][0], engine.encrypted)
connection.close()
"""
INSERT = "INSERT INTO d.t SELECT number, 'PlainTextMarker ' || toString(number) FROM numbers(1000)"
KEY = "ab" * 32


def run(folder: Path, key: str, statement: str = "", *, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), key, statement],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout.strip() if code == 0 else done.stderr


def plain_files(folder: Path) -> list[str]:
    """Files in which the words or the key stand as they are. Columns of one block are compressed, words of the index aren't always."""
    needles = (b"plaintextmarker", b"PlainTextMarker", KEY.encode(), bytes.fromhex(KEY))
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]


@pytest.mark.timeout(120)
def test_a_new_folder_is_encrypted_and_moves_with_its_key(tmp_path: Path) -> None:
    assert run(tmp_path / "plain", "", INSERT) == "1000 False"
    assert plain_files(tmp_path / "plain"), "without a key the words stand in the files"

    assert run(tmp_path / "warm", KEY, INSERT) == "1000 True"
    assert not plain_files(tmp_path / "warm")
    (tmp_path / "warm").rename(tmp_path / "moved")
    assert run(tmp_path / "moved", KEY, INSERT) == "2000 True"
    assert not plain_files(tmp_path / "moved")


@pytest.mark.timeout(120)
def test_without_its_key_or_with_another_it_is_refused_and_an_older_folder_stays_plain(tmp_path: Path) -> None:
    run(tmp_path / "warm", KEY, INSERT)
    assert "is encrypted, and there is no key" in run(tmp_path / "warm", "", code=1)
    assert "Error" in run(tmp_path / "warm", "cd" * 32, code=1)
    run(tmp_path / "older", "", INSERT)
    assert run(tmp_path / "older", KEY, INSERT) == "2000 False"


@pytest.mark.timeout(60)
def test_a_folder_whose_name_the_engine_cannot_take_is_refused_rather_than_written_in_plain(tmp_path: Path) -> None:
    assert "can't be encrypted" in run(tmp_path / "this & that", KEY, INSERT, code=1)
    assert not plain_files(tmp_path / "this & that")
