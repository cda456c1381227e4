"""Payloads whose records carry the time at which they are sent, as live logs do.

What is sent again and again with the times of its first round makes every part of the store span the same hours: merges go row by
row where live logs let them copy stretches, and an insert counts records in hundreds of minutes. So the times, whose places are
known beforehand, are written anew into each payload.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

import numpy as np
import numpy.typing as npt

RFC3339: Final = "%Y-%m-%dT%H:%M:%S."
EPOCH: Final = "%s."
"""Seconds since 1970 as a decimal number."""
_ROW_NS: Final = 100
"""From one record of a payload to the next; thousands of them are within the millisecond that is written as text."""


@dataclass(frozen=True)
class Stamped:
    """A payload and the places of its times.

    Attributes:
        payload: As it is sent, but for the times.
        at: Indexes into it, one for each byte to be written.
        byte: Which byte of the stamp goes there (text), or of the records' times in nanoseconds, one behind the other (binary).
        text: How `strftime` writes the stamp as far as the second; None: eight bytes, little-endian.
        order: Binary: each record's place among those of the payload, by time.
    """

    payload: bytes
    at: npt.NDArray[np.int64]
    byte: npt.NDArray[np.int64]
    text: str | None
    order: npt.NDArray[np.int64]

    @classmethod
    def texts(cls, payload: bytes, places: npt.NDArray[np.int64], text: str) -> Self:
        """With times written as text down to the millisecond.

        Args:
            payload: It may begin and end within a time, whose other part is in another payload.
            places: Where each time begins, perhaps before or behind what is here.
            text: `RFC3339` or `EPOCH`.
        """
        width = len(_stamp(0, text))
        byte = np.broadcast_to(np.arange(width), (len(places), width))
        at = places[:, np.newaxis] + byte
        inside = (at >= 0) & (at < len(payload))
        return cls(payload, at[inside], byte[inside], text, np.zeros(0, np.int64))

    @classmethod
    def binary(cls, payload: bytes, places: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> Self:
        """With times as eight bytes, little-endian, nanoseconds since 1970."""
        at = (places[:, np.newaxis] + np.arange(8)).ravel()
        return cls(payload, at, np.arange(len(at)), None, order)

    def sent_at(self, time_ns: int) -> bytes:
        """The payload as it is sent at some time."""
        raw = np.frombuffer(bytearray(self.payload), np.uint8)
        if self.text is None:
            stamp = (time_ns + self.order * _ROW_NS).astype("<i8").view(np.uint8)
        else:
            stamp = np.frombuffer(_stamp(time_ns, self.text), np.uint8)
        raw[self.at] = stamp[self.byte]
        return raw.tobytes()


def fractions(count: int) -> npt.NDArray[np.uint8]:
    """The six digits behind the millisecond, a row a record, so that the records of a payload follow one another."""
    value = np.arange(count) * _ROW_NS % 1_000_000
    return (value[:, np.newaxis] // 10 ** np.arange(5, -1, -1) % 10 + ord("0")).astype(np.uint8)


def _stamp(time_ns: int, text: str) -> bytes:
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    first = f"{seconds}." if text == EPOCH else datetime.fromtimestamp(seconds, UTC).strftime(text)
    return f"{first}{nanos // 1_000_000:03d}".encode()
