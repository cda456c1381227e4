"""gzip and zstd payloads → bytes, a piece at a time, with a limit on what comes out.

Several members (frames) one after the other are one stream, as `gzip` and `zstd` themselves have it. For a source that is
fed in pieces, and for whole payloads by `decompress`.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterator
from typing import Final, Protocol, cast

import zstandard

from heimdall_server.domain.errors import FormatError, RecordTooLargeError

PIECE_BYTES_MAX: Final = 1024 * 1024
"""Largest piece that comes out at once: what bounds memory, not what is held."""
ZSTD_WINDOW_BYTES_MAX: Final = 128 * 1024 * 1024
"""A frame that needs a larger window is refused (`zstd --long=31` writes such)."""
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE: Final = tuple(bytes([0x50 + nibble, 0x2A, 0x4D, 0x18]) for nibble in range(16))
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_ZSTD_STEP_BYTES: Final = 512
"""Packed bytes handed to zstd at a time. It has no limit on what a call makes, and four bytes may make a block of
128 KiB, so this is what keeps a bomb to 16 MiB before it is noticed."""


class Compression(enum.StrEnum):
    """How bytes are packed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


def sniff(first_bytes: bytes) -> Compression:
    """Tell the compression from the first four bytes."""
    if first_bytes.startswith(_GZIP_MAGIC):
        return Compression.GZIP
    if first_bytes.startswith((_ZSTD_MAGIC, *_ZSTD_SKIPPABLE)):
        return Compression.ZSTD
    return Compression.NONE


class _GzipMember(Protocol):
    """What `zlib.decompressobj` makes; its type has no public name."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def unconsumed_tail(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Decompressor:
    """Unpacks one stream fed in pieces. Not thread-safe; releases the GIL while it works.

    Args:
        compression: How the stream is packed.
        limit_bytes: Most that may come out of the whole stream.
    """

    def __init__(self, compression: Compression, *, limit_bytes: int) -> None:
        self._compression = compression
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0
        self._made_bytes = 0
        self._member: _GzipMember | zstandard.ZstdDecompressionObj | None = None
        self._waiting = b""
        self._unused = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Unpack the next piece.

        Args:
            data: Any cut of the packed stream.

        Yields:
            Pieces of about `PIECE_BYTES_MAX` at most; may be none.

        Raises:
            FormatError: The bytes aren't what they claim to be; `offset` is near the packed byte.
            RecordTooLargeError: More than the limit came out.
        """
        if self._compression is Compression.NONE:
            yield self._counted(data)
            return
        rest = self._waiting + data
        self._waiting = b""
        while rest:
            if self._member is None:
                rest = self._begin(rest)
                if self._member is None:
                    return
            for piece in self._pieces(rest):
                if piece:
                    yield self._counted(piece)
            if not self._member.eof:
                self._taken_bytes += len(rest)
                return
            unused = self._unused
            self._taken_bytes += len(rest) - len(unused)
            rest, self._member = unused, None

    def finish(self) -> None:
        """Say that nothing comes any more.

        Raises:
            FormatError: The stream stops in the middle.
        """
        if self._member is not None or self._waiting:
            raise FormatError(self._compression, "the data is cut short", self._taken_bytes)

    def _begin(self, data: bytes) -> bytes:
        """Start the next member, if there is enough to see that it is one."""
        magic = _GZIP_MAGIC if self._compression is Compression.GZIP else _ZSTD_MAGIC
        if self._made_bytes or self._taken_bytes:
            # Archives on tape are padded with zeros behind the last member: gzip ignores them.
            data = data.lstrip(b"\0") if self._compression is Compression.GZIP else data
        if not data:
            return data
        if len(data) < len(magic):
            self._waiting = data
            return b""
        if self._compression is Compression.GZIP:
            if not data.startswith(magic):
                raise FormatError(self._compression, "no gzip header", self._taken_bytes)
            self._member = zlib.decompressobj(_GZIP_WINDOW)
        else:
            if sniff(data) is not Compression.ZSTD:
                raise FormatError(self._compression, "no zstd frame", self._taken_bytes)
            self._member = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX).decompressobj()
        return data

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        member = self._member
        try:
            if self._compression is Compression.ZSTD:
                yield from self._zstd_pieces(cast("zstandard.ZstdDecompressionObj", member), data)
            else:
                yield from self._gzip_pieces(cast("_GzipMember", member), data)
        except (zlib.error, zstandard.ZstdError) as error:
            raise FormatError(self._compression, "the data is damaged", self._taken_bytes) from error

    def _gzip_pieces(self, member: _GzipMember, data: bytes) -> Iterator[bytes]:
        yield member.decompress(data, PIECE_BYTES_MAX)
        while member.unconsumed_tail and not member.eof:
            yield member.decompress(member.unconsumed_tail, PIECE_BYTES_MAX)
        self._unused = member.unused_data

    def _zstd_pieces(self, member: zstandard.ZstdDecompressionObj, data: bytes) -> Iterator[bytes]:
        made: list[bytes] = []
        made_bytes = 0
        for start in range(0, len(data), _ZSTD_STEP_BYTES):
            made.append(member.decompress(data[start : start + _ZSTD_STEP_BYTES]))
            made_bytes += len(made[-1])
            if made_bytes >= PIECE_BYTES_MAX:
                yield b"".join(made)
                made, made_bytes = [], 0
            if member.eof:
                self._unused = member.unused_data + data[start + _ZSTD_STEP_BYTES :]
                break
        yield b"".join(made)

    def _counted(self, piece: bytes) -> bytes:
        self._made_bytes += len(piece)
        if self._made_bytes > self._limit_bytes:
            raise RecordTooLargeError(self._made_bytes, self._limit_bytes)
        return piece


def decompress(data: bytes, compression: Compression, *, limit_bytes: int) -> bytes:
    """Unpack a whole payload.

    Args:
        data: All of the packed stream.
        compression: How it is packed.
        limit_bytes: Most that may come out.

    Raises:
        FormatError: The bytes aren't what they claim to be, or are cut short.
        RecordTooLargeError: More than the limit came out.
    """
    unpacker = Decompressor(compression, limit_bytes=limit_bytes)
    made = b"".join(unpacker.feed(data))
    unpacker.finish()
    return made
