"""Bytes of a chain of entries: lines of a segment, and the slots that say where the chain ends. No files here.

A segment begins with a line that says whose it is, the number of its first entry and the digest before that one; each
further line is an entry:

    heimdall-chain 1 <purpose> <first sequence> <digest before, hexadecimal>
    <digest, hexadecimal> {"d":<payload>,"n":<sequence>,"t":<nanoseconds>}

    digest = SHA-256(purpose ‖ 0x00 ‖ digest before ‖ the JSON text, byte for byte)

so that anybody can check a chain with nothing but `sha256sum`. Every byte of a line is either hashed or compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from heimdall_server.domain.errors import ChainBrokenError

FORMAT_VERSION: Final = 1
DIGEST_BYTES: Final = 32
NO_DIGEST: Final = bytes(DIGEST_BYTES)
"""What stands before the first entry."""
ENTRY_BYTES_MAX: Final = 1024 * 1024
SLOT_BYTES: Final = 512
"""One sector: a slot is written whole or not at all on most disks, and its checksum tells where it wasn't."""

_HEX: Final = 2 * DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends."""

    sequence: int = 0
    digest: bytes = NO_DIGEST


@dataclass(frozen=True, slots=True)
class ChainEntry:
    """An entry that fits the chain."""

    sequence: int
    time_ns: int
    payload: Mapping[str, Any]
    previous: bytes
    digest: bytes


def encode_entry(purpose: str, before: Head, time_ns: int, payload: Mapping[str, Any]) -> tuple[bytes, ChainEntry]:
    """The line of the entry behind `before`, with its line feed.

    Raises:
        ValueError: The payload isn't JSON, or is over `ENTRY_BYTES_MAX`.
    """
    sequence = before.sequence + 1
    value = {"d": payload, "n": sequence, "t": time_ns}
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(text) > ENTRY_BYTES_MAX:
        msg = f"an entry of {len(text)} bytes is over the limit of {ENTRY_BYTES_MAX}"
        raise ValueError(msg)
    digest = _digest(purpose, before.digest, text)
    line = digest.hex().encode() + b" " + text + b"\n"
    return line, ChainEntry(sequence, time_ns, json.loads(text)["d"], before.digest, digest)


def decode_entry(purpose: str, before: Head, line: bytes) -> ChainEntry:
    """Read the line behind `before`, without its line feed.

    Raises:
        ChainBrokenError: It isn't the entry that was written there.
    """
    text = check_line(purpose, before, line)
    try:
        value = json.loads(text)
        sequence, time_ns, payload = value["n"], value["t"], value["d"]
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(purpose, before, "it isn't an entry") from error
    if sequence != before.sequence + 1 or not isinstance(time_ns, int) or not isinstance(payload, dict):
        raise _broken(purpose, before, "it carries another number")
    return ChainEntry(sequence, time_ns, payload, before.digest, _digest(purpose, before.digest, text))


def check_line(purpose: str, before: Head, line: bytes) -> bytes:
    """The JSON text of the line behind `before`, if its digest is right.

    Raises:
        ChainBrokenError: It isn't.
    """
    text = line[_HEX + 1 :]
    if line[: _HEX + 1] != _digest(purpose, before.digest, text).hex().encode() + b" ":
        raise _broken(purpose, before, "its digest doesn't fit what it says and what stands before it")
    return text


def head_behind(before: Head, line: bytes) -> Head:
    """The head behind a line that was checked."""
    return Head(before.sequence + 1, bytes.fromhex(line[:_HEX].decode("ascii")))


def walk(purpose: str, before: Head, data: bytes, start: int) -> Iterator[tuple[Head, bytes, int]]:
    """Check the lines of a segment one by one.

    Args:
        purpose: Of the chain.
        before: Head before the first line.
        data: The segment.
        start: Where its first entry begins.

    Yields:
        The head before a line, the line, and where the next one begins.

    Raises:
        ChainBrokenError: At the first line that doesn't fit, or that has no end.
    """
    while start < len(data):
        end = data.find(b"\n", start)
        if end < 0:
            raise _broken(purpose, before, "it has no end")
        line = data[start:end]
        check_line(purpose, before, line)
        start = end + 1
        yield before, line, start
        before = head_behind(before, line)


def segment_header(purpose: str, before: Head) -> bytes:
    """The first line of a segment, with its line feed."""
    return f"heimdall-chain {FORMAT_VERSION} {purpose} {before.sequence + 1} {before.digest.hex()}\n".encode()


def read_header(purpose: str, sequence: int, data: bytes) -> tuple[Head, int]:
    """The head before a segment's first entry, and where that begins.

    Args:
        purpose: Of the chain.
        sequence: Of the first entry, as the file's name says.
        data: The segment.

    Raises:
        ChainBrokenError: It isn't such a line.
    """
    end = data.find(b"\n", 0, 512) + 1
    digits = data[:end].rsplit(b" ", 1)[-1].strip()
    try:
        before = Head(sequence - 1, bytes.fromhex(digits.decode("ascii")))
    except ValueError:
        before = Head(sequence - 1)
    if data[:end] != segment_header(purpose, before):
        raise _broken(purpose, Head(sequence - 1), "the segment that begins with it has another first line")
    return before, end


def encode_slot(purpose: str, head: Head) -> bytes:
    """Where the chain ends, in `SLOT_BYTES` with a checksum."""
    text = f"heimdall-chain-head {FORMAT_VERSION} {purpose} {head.sequence} {head.digest.hex()} ".encode()
    text += hashlib.sha256(text).hexdigest().encode()
    return text.ljust(SLOT_BYTES - 1) + b"\n"


def decode_slot(purpose: str, data: bytes) -> Head | None:
    """Read a slot; None: it is empty, was torn, or was changed."""
    parts = data.split()
    try:
        head = Head(int(parts[3]), bytes.fromhex(parts[4].decode("ascii")))
    except (IndexError, ValueError):
        return None
    return head if data == encode_slot(purpose, head) else None


def _digest(purpose: str, before: bytes, text: bytes) -> bytes:
    return hashlib.sha256(purpose.encode() + b"\0" + before + text).digest()


def _broken(purpose: str, before: Head, problem: str) -> ChainBrokenError:
    return ChainBrokenError(f"{purpose}, entry {before.sequence + 1}", problem)
