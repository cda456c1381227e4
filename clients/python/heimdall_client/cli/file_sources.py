"""Which source a file is: machine, path, and what the file begins with.

A path alone won't do: after a rotation, another file has the same name, and going on at the old one's offset would lose
its beginning. An inode won't either: it is given out again as soon as a file is deleted. So the id ends in a digest of
the first lines. How many lines that are is a power of two, as many as there are at the first sight; later, when the file
has grown, the smaller powers are looked up at the server, which knows the source under one of them. What doesn't grow
line by line (a JSON document, Arrow) is told by its size and both its ends.

Where the same lines begin the file again, but it is shorter than what the source holds, it was cut and written anew: the
id gets `+2`, `+3`, … Nothing is kept on this side: the server's `next_offset` is where to go on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from heimdall_client.ingest_calls import SOURCE_ID_BYTES_MAX, file_source_id
from heimdall_client.input_files import ARROW_FILE_MAGIC, Input

if TYPE_CHECKING:
    from heimdall.ingest.v1 import source_pb2
    from heimdall_client.client import AsyncClient

HEAD_BYTES: Final = 16 * 1024
"""The lines that are looked at lie within; a first line that is longer counts up to here."""
LINE_COUNTS: Final = (64, 32, 16, 8, 4, 2, 1)
END_BYTES: Final = 64 * 1024
DIGEST_DIGITS: Final = 16
GENERATION_MAX: Final = 10_000

_DOCUMENT: Final = re.compile(rb"\s*\[\s*(?:\{|\]|\Z)")


@dataclass(frozen=True, slots=True)
class Place:
    """A file's source, and where to go on."""

    source_id: str
    next_offset: int
    """In the decompressed file."""
    known: bool
    """The server has had something of it."""


def read_head(stream: BinaryIO, name: str) -> tuple[bytes, bool]:
    """The first bytes of a file, decompressed, and whether it is compressed. The file then stands at its beginning.

    Raises:
        InputError: It can't be read.
    """
    stream.seek(0)
    content = Input(stream, name=name).begin()
    try:
        return content.read(HEAD_BYTES), bool(content.compression)
    finally:
        stream.seek(0)


def digests(head: bytes) -> list[str]:
    """Of the first 64, 32, … lines, as many as are complete; of the whole head where no line ends in it.

    Returns:
        The longest first; empty: the first line isn't complete yet.
    """
    ends: list[int] = []
    start = 0
    while len(ends) < LINE_COUNTS[0] and (end := head.find(b"\n", start) + 1):
        ends.append(end)
        start = end
    if not ends:
        return [_digest(head[:HEAD_BYTES])] if len(head) >= HEAD_BYTES else []
    return [_digest(head[: ends[count - 1]]) for count in LINE_COUNTS if count <= len(ends)]


def is_document(head: bytes) -> bool:
    """Whether a file is one document, rather than lines that become more."""
    if head.startswith(ARROW_FILE_MAGIC) or head[:4] == b"\xff\xff\xff\xff" or _DOCUMENT.match(head):
        return True
    if not head.lstrip().startswith(b"{"):
        return False
    try:
        json.loads(head.lstrip().partition(b"\n")[0])
    except ValueError:
        return True
    return b"\n" not in head


def whole_digest(stream: BinaryIO) -> str:
    """Of a file's size and both its ends."""
    size = os.fstat(stream.fileno()).st_size
    stream.seek(0)
    first = stream.read(END_BYTES)
    stream.seek(max(0, size - END_BYTES))
    last = stream.read(END_BYTES)
    stream.seek(0)
    return _digest(size.to_bytes(8, "big") + first + last)


async def locate(client: AsyncClient, path: Path, stream: BinaryIO, *, grows: bool) -> Place | None:
    """Find a file's source.

    Args:
        client: Whose source it is.
        path: What names it; may be another one than where the file lies now (it was rotated away).
        stream: The file, open.
        grows: Lines are being written to it: it is never taken for a document.

    Returns:
        None only for one that grows: its first line isn't complete yet.

    Raises:
        InputError: It can't be read.
        RpcError: No answer.
    """
    head, compressed = read_head(stream, str(path))
    found = digests(head) if grows or not is_document(head) else []
    if not found:
        if grows:
            return None
        found = [whole_digest(stream)]
    name = _base(path)
    for digest in found:
        source = await client.get_source(f"{name}#{digest}")
        if _known(source):
            size = None if compressed else os.fstat(stream.fileno()).st_size
            return await _newest(client, source, size)
    return Place(f"{name}#{found[0]}", 0, known=False)


async def _newest(client: AsyncClient, source: source_pb2.Source, size: int | None) -> Place:
    """The newest generation of a source; a new one if the file is shorter than what that holds."""
    first_id, newest, number = source.source_id, source, 2
    while number < GENERATION_MAX:
        later = await client.get_source(f"{first_id}+{number}")
        if not _known(later):
            break
        newest, number = later, number + 1
    if size is not None and newest.next_offset > size:
        return Place(f"{first_id}+{number}", 0, known=False)
    return Place(newest.source_id, newest.next_offset, known=True)


def _known(source: source_pb2.Source) -> bool:
    return bool(source.next_offset or source.epoch)


def _base(path: Path) -> str:
    name = file_source_id(path)
    if len(name.encode()) <= SOURCE_ID_BYTES_MAX - DIGEST_DIGITS - 8:
        return name
    return f"file:sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS]
