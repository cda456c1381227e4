"""Keccak-256 as Ethereum uses it: the submission of 2011, whose padding isn't SHA-3's, so hashlib doesn't have it.

Source: Bertoni, Daemen, Peeters, Van Assche, *The Keccak reference*, version 3.0, 2011, 1.2 and 2.3. About 0.3 ms a block: for
the checksum of the few addresses in a batch, not for bulk.
"""

from __future__ import annotations

from typing import Final

_MASK: Final = (1 << 64) - 1
_RATE_BYTES: Final = 136
_ROUNDS: Final = 24


def keccak_256(message: bytes) -> bytes:
    """The 32-byte digest of a message."""
    padded = bytearray(message) + b"\x01" + bytes(-(len(message) + 1) % _RATE_BYTES)
    padded[-1] |= 0x80
    lanes = [0] * 25
    for offset in range(0, len(padded), _RATE_BYTES):
        for lane in range(_RATE_BYTES // 8):
            lanes[lane] ^= int.from_bytes(padded[offset + 8 * lane : offset + 8 * lane + 8], "little")
        lanes = _permuted(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def _rotated(lane: int, bits: int) -> int:
    return ((lane << bits) | (lane >> (64 - bits))) & _MASK if bits else lane


def _round_constants() -> tuple[int, ...]:
    register, constants = 1, []
    for _ in range(_ROUNDS):
        constant = 0
        for power in range(7):
            if register & 1:
                constant |= 1 << ((1 << power) - 1)
            register = (register << 1) ^ (0x171 if register & 0x80 else 0)
        constants.append(constant)
    return tuple(constants)


def _offsets() -> tuple[int, ...]:
    offsets, x, y = [0] * 25, 1, 0
    for step in range(24):
        offsets[x + 5 * y] = (step + 1) * (step + 2) // 2 % 64
        x, y = y, (2 * x + 3 * y) % 5
    return tuple(offsets)


_CONSTANTS: Final = _round_constants()
_OFFSETS: Final = _offsets()


def _permuted(lanes: list[int]) -> list[int]:
    for constant in _CONSTANTS:
        parity = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
        mixed = [parity[(x + 4) % 5] ^ _rotated(parity[(x + 1) % 5], 1) for x in range(5)]
        moved = [0] * 25
        for index in range(25):
            x, y = index % 5, index // 5
            moved[y + 5 * ((2 * x + 3 * y) % 5)] = _rotated(lanes[index] ^ mixed[x], _OFFSETS[index])
        lanes = [
            moved[index] ^ (~moved[(index + 1) % 5 + index // 5 * 5] & moved[(index + 2) % 5 + index // 5 * 5] & _MASK)
            for index in range(25)
        ]
        lanes[0] ^= constant
    return lanes
