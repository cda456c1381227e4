"""Addresses in networks, many at once: sorted bounds and binary search."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = rf"^{_OCTET}(?:\.{_OCTET}){{3}}$"
_IPV6: Final = "^[0-9a-f:.]{2,45}$"
_DTYPES: Final = {"ipv4": np.dtype(np.uint32), "ipv6": np.dtype("S16")}
"""How addresses are kept so that they sort: bytes do as the numbers that they are, for all are of one length."""
_Bounds: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses, or networks by their first and last one."""

    first: _Bounds
    last: _Bounds
    known: np.ndarray[Any, np.dtype[np.bool_]]
    """Where this is false the text is neither, and the others are anything."""

    @classmethod
    def of(cls, type_name: str, values: pa.StringArray) -> Addresses:
        """Read them.

        Args:
            type_name: `ipv4` or `ipv6`.
            values: Canonical; anything else is unknown.
        """
        texts = pl.Series(values, dtype=pl.String)
        plain = texts.str.contains(_IPV4 if type_name == "ipv4" else _IPV6).fill_null(value=False)
        if type_name == "ipv4":
            first, known = _read_ipv4(texts.set(~plain, None)), plain.to_numpy().copy()
        else:
            packed = [_ipv6(text) for text in texts.set(~plain, None).to_list()]
            known = np.fromiter((one is not None for one in packed), bool, len(packed))
            first = np.array([one or b"" for one in packed], _DTYPES["ipv6"])
        last = first.copy()
        for row in texts.str.contains("/", literal=True).fill_null(value=False).arg_true().to_list():  # few
            bounds = _network(type_name, texts[row])
            if bounds is not None:
                first[row], last[row] = bounds
                known[row] = True
        return cls(first, last, known)


@dataclass(frozen=True, slots=True)
class Networks:
    """Networks of one version: where each begins and ends, sorted, none of them overlapping."""

    starts: _Bounds
    ends: _Bounds

    @classmethod
    def of(cls, type_name: str, entries: Iterable[str]) -> Networks:
        """Those among some entries that are of a version.

        Args:
            type_name: `ipv4` or `ipv6`.
            entries: Addresses and networks of either.
        """
        kind: Any = ipaddress.IPv4Network if type_name == "ipv4" else ipaddress.IPv6Network
        mine = (one for one in map(ipaddress.ip_network, entries) if isinstance(one, kind))
        merged = list(ipaddress.collapse_addresses(mine))
        bounds = [
            (_number(type_name, one.network_address), _number(type_name, one.broadcast_address)) for one in merged
        ]
        dtype = _DTYPES[type_name]
        return cls(np.array([first for first, _ in bounds], dtype), np.array([last for _, last in bounds], dtype))

    def hold(self, addresses: Addresses) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which addresses, or whole networks, are in one of these."""
        if not len(self.starts):
            return np.zeros(len(addresses.known), bool)
        place = np.searchsorted(self.starts, addresses.first, side="right") - 1
        inside = (place >= 0) & (addresses.last <= self.ends[np.maximum(place, 0)])
        return np.asarray(inside & addresses.known, bool)


def _read_ipv4(texts: pl.Series) -> _Bounds:
    numbers = np.zeros(len(texts), np.uint32)
    for octet in texts.str.splitn(".", 4).struct.unnest().iter_columns():
        numbers = (numbers << np.uint32(8)) | octet.cast(pl.UInt32, strict=False).fill_null(0).to_numpy()
    return numbers


def _ipv6(text: str | None) -> bytes | None:
    try:
        return socket.inet_pton(socket.AF_INET6, text) if text else None
    except OSError:
        return None


def _network(type_name: str, text: str) -> tuple[int | bytes, int | bytes] | None:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return None
    if network.version != (4 if type_name == "ipv4" else 6):
        return None
    return _number(type_name, network.network_address), _number(type_name, network.broadcast_address)


def _number(type_name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int | bytes:
    return int(address) if type_name == "ipv4" else address.packed
