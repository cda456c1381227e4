"""What a source's writer holds until it is durable: pieces as they were written, then chunks with fixed borders."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import google_crc32c

Cut = Callable[[bytes, int], bytes]
"""(payload, count) → the payload without its first `count` units."""


def cut_bytes(payload: bytes, count: int) -> bytes:
    """`Cut` for sources that count bytes."""
    return payload[count:]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A payload and its place in the source."""

    offset: int
    next_offset: int
    payload: bytes
    crc32c: int


class AppendBuffer:
    """Units of a source from `durable` to `written`. Not thread-safe; computes a CRC a chunk, else moves references.

    Args:
        cut: How to cut a payload in its middle.
        splits: Whether payloads may be split and joined at any unit (bytes), or travel as they are (Arrow).
    """

    def __init__(self, *, cut: Cut, splits: bool) -> None:
        self.durable = self.cut = self.written = 0
        self.oldest_piece_s = 0.0
        """When the first piece that isn't in a chunk was written."""
        self.piece_bytes = 0
        """Written, but not in a chunk yet."""
        self._cut_payload = cut
        self._splits = splits
        self._chunks: deque[Chunk] = deque()
        self._pieces: deque[tuple[bytes, int]] = deque()
        self._chunk_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Payload bytes in memory."""
        return self._chunk_bytes + self.piece_bytes

    def start(self, offset: int) -> None:
        """The source begins here for this writer."""
        self.durable = self.cut = self.written = offset

    def write(self, payload: bytes, units: int, *, now_s: float) -> None:
        """Take what comes next; `units` is its length in the source's unit."""
        if not self._pieces:
            self.oldest_piece_s = now_s
        self._pieces.append((payload, units))
        self.piece_bytes += len(payload)
        self.written += units

    def release(self, offset: int) -> None:
        """Everything before `offset` is durable."""
        self.durable = max(self.durable, offset)
        while self._chunks and self._chunks[0].next_offset <= self.durable:
            self._chunk_bytes -= len(self._chunks.popleft().payload)

    def in_flight(self, received: int, sent: int) -> tuple[int, int]:
        """(chunks, payload bytes) of which a part lies between the two places."""
        count = size = 0
        for chunk in reversed(self._chunks):
            if chunk.next_offset <= received:
                break
            if chunk.offset < sent:
                count += 1
                size += len(chunk.payload)
        return count, size

    def make_chunk(self, bytes_max: int) -> None:
        """Move pieces of up to `bytes_max` into a chunk. There must be one."""
        payload, units = self._pieces.popleft()
        if self._splits:
            parts, size = [payload], len(payload)
            while self._pieces and size < bytes_max:
                parts.append(self._pieces.popleft()[0])
                size += len(parts[-1])
            if size > bytes_max:
                keep = len(parts[-1]) - (size - bytes_max)
                rest = parts[-1][keep:]
                parts[-1] = parts[-1][:keep]
                self._pieces.appendleft((rest, len(rest)))
            payload = parts[0] if len(parts) == 1 else b"".join(parts)
            units = len(payload)
        self.piece_bytes -= len(payload)
        self._chunk_bytes += len(payload)
        self._chunks.append(_chunk(self.cut, self.cut + units, payload))
        self.cut += units

    def chunk_at(self, offset: int, bytes_max: int) -> Chunk:
        """The chunk that holds `offset`, cut so that it begins there and, where that can be, isn't larger.

        Args:
            offset: At least `durable`, less than `cut`.
            bytes_max: Of its payload. Another server may allow less than the one it was made for.
        """
        index = next(i for i, chunk in enumerate(self._chunks) if chunk.next_offset > offset)
        chunk = self._chunks[index]
        if chunk.offset < offset:
            rest = _chunk(offset, chunk.next_offset, self._cut_payload(chunk.payload, offset - chunk.offset))
            chunk = self._put(index, chunk, rest)
        if self._splits and len(chunk.payload) > bytes_max:
            middle = chunk.offset + bytes_max
            self._chunks.insert(index + 1, _chunk(middle, chunk.next_offset, chunk.payload[bytes_max:]))
            self._chunk_bytes += len(chunk.payload) - bytes_max
            chunk = self._put(index, chunk, _chunk(chunk.offset, middle, chunk.payload[:bytes_max]))
        return chunk

    def _put(self, index: int, old: Chunk, new: Chunk) -> Chunk:
        self._chunk_bytes += len(new.payload) - len(old.payload)
        self._chunks[index] = new
        return new


def _chunk(offset: int, next_offset: int, payload: bytes) -> Chunk:
    return Chunk(offset, next_offset, payload, google_crc32c.value(payload))
