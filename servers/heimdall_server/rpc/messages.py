"""From the bytes of a request to a checked message.

gRPC's core would inflate a compressed message whole before it looks at its size: 4 MiB of gzip become 4 GiB. So it is
told to leave messages as they came (`rpc/server.py`), and they are inflated here, up to a limit. That gzip can be told
from a message by its first byte is no guess: 0x1f would be a field of wire type 7, which doesn't exist.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Any, Final

import protovalidate
from google.protobuf.message import DecodeError, Message

from heimdall_server.domain.errors import InvalidArgumentError

_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31
_INLINE_BYTES: Final = 16 * 1024
"""Less than this is inflated on the event loop: it takes less than handing it to a thread."""
_OURS: Final = "heimdall."
_VALIDATOR: Final = protovalidate.Validator()


def is_compressed(raw: bytes) -> bool:
    """Whether a message came compressed."""
    return raw.startswith(_GZIP_MAGIC)


def inflated_size(raw: bytes, *, bytes_max: int) -> int:
    """Bytes that a compressed message says it becomes: gzip ends with that number. `inflate` holds it to its word.

    Args:
        raw: As it came, compressed.
        bytes_max: Most that it may say.

    Raises:
        InvalidArgumentError: It says more than that.
    """
    size = int.from_bytes(raw[-4:], "little")
    if size > bytes_max:
        raise _damaged(f"must be at most {bytes_max} bytes after decompression")
    return size


async def inflate(raw: bytes, *, size: int) -> bytes:
    """Undo a message's compression.

    Args:
        raw: As it came, compressed.
        size: What `inflated_size` said.

    Raises:
        InvalidArgumentError: Damaged, or it becomes more or less than that.
    """
    if size <= _INLINE_BYTES:
        return _inflate(raw, size)
    return await asyncio.to_thread(_inflate, raw, size)


def _inflate(raw: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj(wbits=_GZIP_WINDOW)
    try:
        # One byte more than it says, so that the end of the stream is seen. 0 would mean «no limit».
        whole = inflater.decompress(raw, size + 1)
    except zlib.error as error:
        raise _damaged("must be valid gzip") from error
    if not inflater.eof or inflater.unused_data or len(whole) != size:
        raise _damaged("must be one whole gzip member that says its true size")
    return whole


def _damaged(rule: str) -> InvalidArgumentError:
    field = "message"
    return InvalidArgumentError(field, rule)


def parse(raw: bytes, deserializer: Callable[[bytes], Any] | None) -> Any:  # noqa: ANN401 - any message
    """Read a message and check the constraints of its contract.

    Args:
        raw: Uncompressed.
        deserializer: The generated one; none: the method takes bytes, and checks them itself.

    Returns:
        The message, or `raw`.

    Raises:
        InvalidArgumentError: Not this message, or it breaks constraints; all of them are named.
    """
    if deserializer is None:
        return raw
    try:
        message = deserializer(raw)
    except DecodeError as error:
        raise _damaged("must be the method's request message, encoded as protobuf") from error
    if isinstance(message, Message) and message.DESCRIPTOR.full_name.startswith(_OURS):
        validate(message)
    return message


def validate(message: Message) -> None:
    """Check the constraints of a message's contract. Takes 3 to 30 µs, with a payload of 1 MiB, too.

    Raises:
        InvalidArgumentError: It breaks constraints; all of them are named.
    """
    try:
        _VALIDATOR.validate(message)
    except protovalidate.ValidationError as error:
        first, *further = [
            (field_path(violation.proto), str(violation.proto.message) or str(violation.proto.rule_id))
            for violation in error.violations
        ]
        raise InvalidArgumentError(*first, further=tuple(further)) from error


def field_path(violation: Any) -> str:  # noqa: ANN401 - protovalidate's own message
    """The path of a violation's field: `batch.offset`, `dead_letter_ids[3]`."""
    pieces: list[str] = []
    for element in violation.field.elements if violation.field is not None else ():
        subscript = element.subscript
        suffix = "" if subscript is None else f"[{subscript.value!r}]"
        pieces.append(f"{element.field_name}{suffix}")
    return ".".join(pieces) or "message"
