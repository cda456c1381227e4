"""Reading a request's body: bounded before and after decompression, and counted against the bytes in flight."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator
from typing import Final

import pyarrow as pa
import zstandard

from heimdall_server.decode.decompress import Compression, decompress
from heimdall_server.domain.errors import FormatError, RecordTooLargeError
from heimdall_server.edge.http.messages import ClientGoneError, Operation, RefusedError, Request
from heimdall_server.rpc.limits import InflightBytes

_TOO_LARGE: Final = 413
_INLINE_BYTES: Final = 16 * 1024
"""What becomes no larger is inflated on the event loop: it takes less than handing it to a thread."""
_GUESSED_RATIO: Final = 8
_ENCODINGS: Final = {"gzip": Compression.GZIP, "x-gzip": Compression.GZIP, "zstd": Compression.ZSTD}
_ACCEPTED: Final = "gzip, zstd, deflate, identity"
_SNAPPY: Final = "snappy"
_VARINT_BYTES_MAX: Final = 5
_GROWTH_BYTES: Final = 256 * 1024


@contextlib.asynccontextmanager
async def body_of(
    request: Request, operation: Operation, inflight: InflightBytes, *, bytes_max: int
) -> AsyncIterator[bytes]:
    """A request's body, its encoding undone; its bytes are reserved while the block lasts.

    Args:
        request: Its head.
        operation: What it is for.
        inflight: What the process may hold.
        bytes_max: Most bytes, as they come and as they turn out.

    Raises:
        RefusedError: Too large (413), an encoding we don't know (415), damaged (400).
        BudgetExceededError: The process holds too much already.
        ClientGoneError: The connection ended first.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower() or "identity"
    if operation.snappy_type and request.media_type == operation.snappy_type:
        encoding = _SNAPPY
    elif encoding not in (*_ENCODINGS, "deflate", "identity"):
        refused = f"the encoding {encoding!r} isn't one of {_ACCEPTED}"
        raise RefusedError(415, refused, headers={"accept-encoding": _ACCEPTED})
    stated = _length(request)
    if stated > bytes_max:
        raise _too_large(bytes_max, close=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(inflight.try_acquire(stated))
        raw = bytearray()
        reserved = stated
        while not request.body.ended:
            raw += await request.body.read()
            if len(raw) > bytes_max:
                raise _too_large(bytes_max, close=True)
            if len(raw) > reserved:
                stack.enter_context(inflight.try_acquire(_GROWTH_BYTES))
                reserved += _GROWTH_BYTES
        if encoding == "identity":
            yield bytes(raw)
            return
        content = bytes(raw)
        del raw
        # What it says may be nonsense, of a damaged one; that it doesn't become more than it may is seen to below.
        stated = min(_stated_size(content, encoding), bytes_max)
        stack.enter_context(inflight.try_acquire(stated))
        try:
            body = await _inflated(content, encoding, stated)
        except RefusedError as error:
            # Several members, or a size that isn't told: then as much as there may be is reserved.
            if error.status != _TOO_LARGE or stated == bytes_max:
                raise
            stack.enter_context(inflight.try_acquire(bytes_max - stated))
            body = await _inflated(content, encoding, bytes_max)
        yield body


async def pass_over(request: Request, *, bytes_max: int) -> bool:
    """Read a refused request's body without keeping it, so that the client gets to read the refusal.

    Returns:
        Whether the connection can go on; it can't if the client waits to be told to send, or sends too much.
    """
    if "expect" in request.headers and not request.body.ended:
        return False
    passed = 0
    while not request.body.ended:
        try:
            passed += len(await request.body.read())
        except ClientGoneError:
            return False
        if passed > bytes_max:
            return False
    return True


def _length(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isdecimal() else 0


def _stated_size(content: bytes, encoding: str) -> int:
    """Bytes that a packed body says it becomes; a guess where it doesn't say. What inflates it holds it to that."""
    if encoding == _SNAPPY:
        return _snappy_size(content)
    if encoding in ("gzip", "x-gzip"):
        return int.from_bytes(content[-4:], "little")
    if encoding == "zstd" and content:
        with contextlib.suppress(zstandard.ZstdError):
            size: int = zstandard.frame_content_size(content)
            if size >= 0:
                return size
    return _GUESSED_RATIO * len(content)


async def _inflated(content: bytes, encoding: str, bytes_max: int) -> bytes:
    if bytes_max <= _INLINE_BYTES:
        return _inflate(content, encoding, bytes_max)
    return await asyncio.to_thread(_inflate, content, encoding, bytes_max)


def _too_large(bytes_max: int, *, close: bool = False) -> RefusedError:
    sentence = f"the request is larger than {bytes_max} bytes; send smaller ones"
    return RefusedError(_TOO_LARGE, sentence, headers={"connection": "close"} if close else None)


def _inflate(content: bytes, encoding: str, bytes_max: int) -> bytes:
    try:
        if encoding == _SNAPPY:
            return _unsnapped(content, bytes_max)
        if encoding == "deflate":
            return _undeflated(content, bytes_max)
        return decompress(content, _ENCODINGS[encoding], limit_bytes=bytes_max)
    except RecordTooLargeError:
        raise _too_large(bytes_max) from None
    except (FormatError, zlib.error, OSError, pa.ArrowException):
        damaged = f"the body isn't whole, valid {encoding}"
        raise RefusedError(400, damaged) from None


def _undeflated(content: bytes, bytes_max: int) -> bytes:
    inflater = zlib.decompressobj()
    whole = inflater.decompress(content, bytes_max + 1)
    if len(whole) > bytes_max:
        raise _too_large(bytes_max)
    if not inflater.eof or inflater.unused_data:
        raise zlib.error
    return whole


def _unsnapped(content: bytes, bytes_max: int) -> bytes:
    """One snappy block. It begins with the size that it becomes, and its reader holds it to that."""
    size = _snappy_size(content)
    if size > bytes_max:
        raise _too_large(bytes_max)
    return bytes(pa.decompress(content, decompressed_size=size, codec=_SNAPPY, asbytes=True))


def _snappy_size(content: bytes) -> int:
    size = 0
    for place, byte in enumerate(content[:_VARINT_BYTES_MAX]):
        size |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:  # the last byte of a varint
            break
    return size
