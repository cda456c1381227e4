"""Serialised Protobuf messages to Arrow columns by `ptars`, whose panics are told as the bad input that they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import ptars
import pyarrow as pa
from google.protobuf.descriptor import Descriptor

_PANIC: Final = "PanicException"
"""A Rust panic as pyo3 raises it. Each library has a class of its own that can't be imported, and it is no `Exception`."""


def reader_of(message: Descriptor) -> Callable[[list[bytes]], pa.RecordBatch]:
    """A function that makes a row of each serialised message.

    It holds the GIL, about 2.5 ms a MiB. It raises `ValueError` if the bytes aren't such messages: a length beyond 2^63, say,
    makes the library panic where it should refuse.
    """
    read = ptars.HandlerPool([message.file]).get_for_message(message).list_to_record_batch

    def to_columns(payloads: list[bytes]) -> pa.RecordBatch:
        try:
            return read(payloads)
        except BaseException as error:
            if type(error).__name__ != _PANIC:
                raise
            message_of_panic = "a length is out of range"
            raise ValueError(message_of_panic) from None

    return to_columns
