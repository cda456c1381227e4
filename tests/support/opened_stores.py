"""What stores hold, in plain: journal frames decrypted, blocks of ClickHouse's files decompressed, tables read back as text.

For tests that look for what must not be there. Nothing here goes through the server: files are read as whoever stole them,
keys included, could read them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psycopg
import pyarrow as pa
from psycopg import sql

from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.crypto.key_encryption.opening import KeyPlaces, open_keyring
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.storage.journal.config import JournalConfig
from heimdall_server.storage.journal.files import stored_fingerprint
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.wiring.clock import SystemClock

# access/xlog_internal.h of PostgreSQL: `XLogPageHeaderData`, `XLogLongPageHeaderData`.
_PAGE_BYTES, _HEAD_BYTES, _LONG_HEAD_BYTES, _HAS_LONG_HEAD = 8192, 24, 40, 0x0002
Place = tuple[str, Iterable[bytes]]

_HEADER_BYTES: Final = 25
"""Of a compressed block: checksum 16, method 1, both sizes 4 each; the sizes count the last 9 of them."""
_COUNTED_BYTES: Final = 9
_LZ4, _ZSTD, _NONE, _SEVERAL = 0x82, 0x90, 0x02, 0x91
_METHODS: Final = {_LZ4: "lz4_raw", _ZSTD: "zstd"}
_BLOCK_BYTES_MAX: Final = 1 << 28


def clickhouse_blocks(folder: Path) -> Iterator[Place]:
    """Every file of a data folder of ClickHouse that consists of compressed blocks, each decompressed; parts that are to go, too."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield f"{path.relative_to(folder)}, decompressed", _blocks(path.read_bytes())


def _blocks(data: bytes) -> Iterator[bytes]:
    """The contents of blocks that stand behind one another, wherever they begin: indexes have a head of their own."""
    at = 0
    while at + _HEADER_BYTES <= len(data):
        method = data[at + 16]
        packed_bytes, bytes_ = (int.from_bytes(data[at + n : at + n + 4], "little") for n in (17, 21))
        end = at + 16 + packed_bytes
        if (
            method in (*_METHODS, _NONE, _SEVERAL)
            and packed_bytes > _COUNTED_BYTES
            and end <= len(data)
            and bytes_ < _BLOCK_BYTES_MAX
        ):
            inner = _unpacked(method, data[at + _HEADER_BYTES : end], bytes_)
            if inner is not None:
                yield inner
                at = end
                continue
        at += 1


def _unpacked(method: int, packed: bytes, bytes_: int) -> bytes | None:
    if method == _NONE:
        return packed if len(packed) == bytes_ else None
    if method == _SEVERAL:
        count = packed[0]
        # The codecs in the order in which they were applied; the last one's block is inside.
        return next(_blocks(packed[1 + count :]), None) if count and packed[count : count + 1] else None
    try:
        return bytes(pa.decompress(packed, decompressed_size=bytes_, codec=_METHODS[method], asbytes=True))
    except (OSError, pa.ArrowInvalid):
        return None


def chdb_tables(folder: Path, copy: Path) -> list[Place]:
    """Every table of chDB's, every column of it, in a process of its own, on a copy of the folder.

    Numbers are there as text, and texts once more as they are, with nothing escaped.

    Args:
        folder: Of the store.
        copy: Where to copy it; removed afterwards.
    """
    shutil.copytree(folder, copy, symlinks=True)
    try:
        done = subprocess.run([sys.executable, "-c", _READ_ALL, str(copy)], capture_output=True, check=True, timeout=60)
    finally:
        shutil.rmtree(copy)
    pieces = re.split(rb"\x01table ([^\x01\n]+)\x01\n", done.stdout)
    return [(f"chDB's table {name.decode()}", [text]) for name, text in zip(pieces[1::2], pieces[2::2], strict=True)]


_READ_ALL: Final = r"""
import sys
import chdb
handle = chdb.connect(sys.argv[1])
listed = "SELECT database, name FROM system.tables WHERE NOT has(['system', 'information_schema', 'INFORMATION_SCHEMA'], database)"
logs = "SELECT database, name FROM system.tables WHERE database = 'system' AND (name LIKE '%\\_log' OR name = 'mutations')"
for statement in (listed, logs):
    for line in handle.query(statement, "TSV").bytes().decode().splitlines():
        database, name = line.split("\t")
        sys.stdout.buffer.write(f"\x01table {database}.{name}\x01\n".encode())
        for form in ("TSVRaw", "RowBinary"):
            sys.stdout.buffer.write(handle.query(f"SELECT * FROM `{database}`.`{name}`", form).bytes() + b"\n")
handle.close()
"""


def postgres_folder(data_dir: Path) -> Path:
    """Where a server's embedded PostgreSQL keeps its data."""
    ours = data_dir / "postgres"
    place = ours / "place"
    return (Path(place.read_text().strip()) if place.is_file() else ours) / "data"


def postgres_connection(data_dir: Path, database: str = "heimdall") -> psycopg.Connection[Any]:
    """A connection to the PostgreSQL of a server that runs, as its superuser."""
    port = (postgres_folder(data_dir) / "postmaster.pid").read_text().splitlines()[3]
    password = (data_dir / "keys" / "postgres-superuser.password").read_text().strip()
    return psycopg.connect(
        host="127.0.0.1", port=port, user="heimdall", password=password, dbname=database, autocommit=True
    )


def postgres_tables(data_dir: Path) -> list[Place]:
    """Every table of the PostgreSQL of a server that runs, its catalogue's statistics included."""
    found: list[Place] = []
    with postgres_connection(data_dir) as connection:
        names = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname <> 'information_schema' "
            # Temporary tables are another session's alone; their files lie with all others.
            "AND schemaname NOT LIKE 'pg_temp%' "
            "AND (schemaname <> 'pg_catalog' OR tablename IN ('pg_statistic', 'pg_largeobject', 'pg_description'))"
        ).fetchall()
        for schema, table in names:
            copied = sql.SQL("COPY (SELECT t::text FROM {} t) TO STDOUT").format(sql.Identifier(schema, table))
            with connection.cursor().copy(copied) as rows:
                found.append((f"PostgreSQL's table {schema}.{table}", [bytes(piece) for piece in rows]))
    return found


def postgres_log(folder: Path) -> list[Place]:
    """PostgreSQL's write-ahead log without the heads of its pages, which cut in two what runs from one page into the next.

    Args:
        folder: PostgreSQL's data.
    """
    return [
        (f"{path.name} without heads", _log_pages(path.read_bytes())) for path in sorted((folder / "pg_wal").glob("0*"))
    ]


def _log_pages(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), _PAGE_BYTES):
        page = data[at : at + _PAGE_BYTES]
        head = _LONG_HEAD_BYTES if int.from_bytes(page[2:4], sys.byteorder) & _HAS_LONG_HEAD else _HEAD_BYTES
        yield page[head:]


def journal_frames(data_dir: Path, copy: Path) -> list[Place]:
    """Every frame of a journal, decrypted: records as they lie in memory, and all of the control beside them.

    Args:
        data_dir: Of a server that doesn't run.
        copy: Where to copy the journal and the keys; removed afterwards.
    """
    copy.mkdir(mode=0o700)
    try:
        for name in ("journal", "keys"):
            shutil.copytree(data_dir / name, copy / name)
        marker = data_dir / "keyring.id"
        if marker.exists():
            shutil.copy(marker, copy)
        return asyncio.run(_frames(copy))
    finally:
        shutil.rmtree(copy)


async def _frames(folder: Path) -> list[Place]:
    keys = folder / "keys"
    places = KeyPlaces(
        keys / "keyring", keys / "root.key", folder / "keyring.id", stored_fingerprint(folder / "journal")
    )
    opened = await open_keyring(KekConfig("file", file=keys / "root.key"), places, classes=CLASSES)
    config = JournalConfig(folder / "journal", disk_reserve_bytes=0)
    journal = await EmbeddedJournal.open(config, key=opened.keyring.root, clock=SystemClock())
    found: list[Place] = []
    try:
        tail, head = journal.tail()[0], journal.head()[0]
        async for frame in journal.read(0, after=tail - 1, through=head):
            entry = frame.entry
            pieces = [_as_bytes(entry.batch)] if entry.batch is not None else []
            pieces.append(repr(replace(entry, batch=None, dead_letters=(), snapshot=None)).encode())
            if entry.snapshot is not None:
                pieces.append(entry.snapshot.data)
            for letter in entry.dead_letters:
                pieces += [repr(replace(letter, raw=b"")).encode(), letter.raw]
            found.append((f"journal frame {frame.position}", pieces))
    finally:
        await journal.close()
        await opened.close()
    return found


def _as_bytes(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def metrics_text(address: str) -> bytes:
    """What a server says of itself."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return bytes(answer.read())


def rows_text(rows: Iterable[Any]) -> bytes:
    """Rows that were read from a server, as text with nothing escaped."""
    return json.dumps(list(rows), default=str, ensure_ascii=False).encode()


def remove_postgres(data_dir: Path) -> None:
    """Remove what a server that ran as root keeps elsewhere."""
    place = data_dir / "postgres" / "place"
    if place.is_file() and os.geteuid() == 0:
        shutil.rmtree(place.read_text().strip(), ignore_errors=True)
