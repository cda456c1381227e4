"""Reads fields of a record batch as arrays: core columns, attribute maps by key, ids as hex, numbers in texts.

A key of a map is looked up over the flat keys of the whole column at once. Results are kept for the batch,
so that an expression that names a field twice pays once.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.literals import NUMBER_PATTERN, AddressRange, number_text

Mask: TypeAlias = npt.NDArray[np.bool_]
Rows: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

MAPS: Final = ("", "_number", "_bool")
"""What the names of the three maps of a scope end in."""
_HEX: Final = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), dtype="V2")
_NUMBER: Final = rf"\A(?:{NUMBER_PATTERN})\z"
_OCTET: Final = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = r"\A" + r"\.".join([_OCTET] * 4) + r"\z"
_IPV6: Final = r"\A[0-9A-Fa-f:.]{2,45}\z"
_ZERO_LED: Final = r":0[0-9]+\.|\.0[0-9]"
_MAPPED: Final = 0xFFFF00000000
_SAFE_INTEGER: Final = 2.0**53


def to_mask(array: pa.Array) -> Mask:
    """A boolean array as NumPy; null is False."""
    if array.null_count:
        array = array.fill_null(False)  # noqa: FBT003 # Arrow's own signature
    mask: Mask = array.to_numpy(zero_copy_only=False)
    return mask


def to_series(array: pa.Array) -> pl.Series:
    """A string array for polars, whose search is several times faster than Arrow's."""
    return pl.Series(values=array)


class BatchFields:
    """The fields of one batch. Not thread-safe; make one per batch."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self.count = int(batch.num_rows)
        self._cache: dict[tuple[str, str], object] = {}

    def text(self, ref: FieldRef) -> pa.Array:
        """A core or computed text column, without nulls; ids as hex. The empty text is missing."""
        key = ("text", ref.name)
        found = self._cache.get(key)
        if found is None:
            array = self.batch.column(ref.name)
            if pa.types.is_dictionary(array.type):
                array = array.dictionary_decode()
            if pa.types.is_fixed_size_binary(array.type):
                array = hex_texts(array)
            found = self._cache[key] = array.fill_null("") if array.null_count else array
        return found

    def lowered(self, ref: FieldRef) -> pl.Series:
        """A text column with ASCII letters lowered."""
        key = ("lowered", ref.name)
        found = self._cache.get(key)
        if not isinstance(found, pl.Series):
            found = self._cache[key] = to_series(pc.ascii_lower(self.text(ref)))
        return found

    def entries(self, column: str, name: str) -> tuple[Rows, pa.Array]:
        """What a map column holds under a key: row numbers, ascending, each once, and the values."""
        key = (column, name)
        found = self._cache.get(key)
        if isinstance(found, tuple):
            return found
        array = self.batch.column(column)
        offsets = array.offsets.to_numpy(zero_copy_only=False)
        start, end = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
        keys = array.keys.slice(start, end - start)
        places = np.flatnonzero(to_mask(pc.equal(keys, name))) + start
        rows = (np.searchsorted(offsets, places, side="right") - 1).astype(np.int64)
        if len(rows) > 1:
            first = np.concatenate(([True], rows[1:] != rows[:-1]))
            rows, places = rows[first], places[first]
        result = rows, array.items.take(pa.array(places))
        self._cache[key] = result
        return result

    def has_key(self, scope: str, name: str) -> Mask:
        """The records that carry an attribute of a scope, whatever its type."""
        mask = np.zeros(self.count, np.bool_)
        for suffix in MAPS:
            mask[self.entries(scope + suffix, name)[0]] = True
        return mask

    def scoped(self, ref: FieldRef, evaluate: Callable[[str], Mask]) -> Mask:
        """Evaluate on the maps that an attribute's reference means; see `Scope.ANY`."""
        if ref.scope is not Scope.ANY:
            return evaluate(str(ref.scope))
        mask = evaluate("attributes")
        if (
            len(self.batch.column("resource").keys)
            or len(self.batch.column("resource_number").keys)
            or len(self.batch.column("resource_bool").keys)
        ):
            mask = mask | (~self.has_key("attributes", ref.name) & evaluate("resource"))
        return mask

    def numbers(self, ref: FieldRef) -> Floats:
        """A field as numbers; NaN where it holds none. Attributes: the number maps only."""
        if ref.scope in (Scope.CORE, Scope.COMPUTED):
            array = self.batch.column(ref.name)
            if pa.types.is_string(array.type):
                return spelt_numbers(self.text(ref))
            numbers: Floats = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            is_severity = ref.scope is Scope.CORE and ref.name == "severity"
            return np.where(numbers == 0, np.nan, numbers) if is_severity else numbers
        result = np.full(self.count, np.nan)
        scopes = ("resource", "attributes") if ref.scope is Scope.ANY else (str(ref.scope),)
        for scope in scopes:
            if ref.scope is Scope.ANY and scope == "attributes":
                result[self.has_key(scope, ref.name)] = np.nan
            rows, values = self.entries(scope + "_number", ref.name)
            result[rows] = values.to_numpy(zero_copy_only=False)
        return result

    def exists(self, ref: FieldRef) -> Mask:
        """The records that carry a field."""
        if ref.scope not in (Scope.CORE, Scope.COMPUTED):
            return self.scoped(ref, lambda scope: self.has_key(scope, ref.name))
        array = self.batch.column(ref.name)
        if pa.types.is_string(array.type) or pa.types.is_fixed_size_binary(array.type):
            return to_mask(pc.not_equal(self.text(ref), ""))
        if ref.scope is Scope.CORE and ref.name == "severity":
            return to_mask(pc.not_equal(array, 0))
        return to_mask(array.is_valid())

    def strings(self, ref: FieldRef) -> pa.Array:
        """A field's text alone, as patterns see it; empty where it has none."""
        if ref.scope in (Scope.CORE, Scope.COMPUTED):
            return self.text(ref)
        result: pa.Array = pa.array([""] * self.count, pa.string())
        inherits = ref.scope is Scope.ANY
        for scope in ("resource", "attributes") if inherits else (str(ref.scope),):
            rows, values = self.entries(scope, ref.name)
            mask = np.zeros(self.count, np.bool_)
            mask[rows] = True
            if inherits and scope == "attributes":
                result = pc.if_else(pa.array(self.has_key(scope, ref.name)), "", result)
            if len(rows):
                result = pc.replace_with_mask(result, pa.array(mask), values)
        return result

    def display(self, ref: FieldRef) -> pa.Array:
        """A field as text, as groups name it; the empty text is missing."""
        if ref.scope in (Scope.CORE, Scope.COMPUTED):
            return self.text(ref)
        scopes = ("resource", "attributes") if ref.scope is Scope.ANY else (str(ref.scope),)
        result: pa.Array = pa.array([""] * self.count, pa.string())
        for scope in scopes:
            if ref.scope is Scope.ANY and scope == "attributes":
                result = pc.if_else(pa.array(self.has_key(scope, ref.name)), "", result)
            for suffix in reversed(MAPS):
                rows, values = self.entries(scope + suffix, ref.name)
                if len(rows):
                    mask = np.zeros(self.count, np.bool_)
                    mask[rows] = True
                    result = pc.replace_with_mask(result, pa.array(mask), as_texts(values))
        return result


def as_texts(values: pa.Array) -> pa.Array:
    """Values of a map as text: numbers by `number_text`, bools as `true` and `false`."""
    if pa.types.is_boolean(values.type):
        return pc.if_else(values, "true", "false")
    if not pa.types.is_floating(values.type):
        return values
    numbers = values.to_numpy(zero_copy_only=False)
    whole = (np.abs(numbers) < _SAFE_INTEGER) & (numbers == np.trunc(numbers))
    digits = pa.array(np.where(whole, numbers, 0).astype(np.int64)).cast(pa.string())
    if whole.all():
        return digits
    fractions = np.unique(numbers[~whole])
    texts = pa.array([number_text(float(number)) for number in fractions], pa.string())
    return pc.replace_with_mask(
        digits, pa.array(~whole), texts.take(pa.array(np.searchsorted(fractions, numbers[~whole])))
    )


def hex_texts(array: pa.Array) -> pa.Array:
    """Ids as lower-case hex; all zero as the empty text."""
    width = array.type.byte_width
    data = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * width : (array.offset + len(array)) * width]
    digits = _HEX[data].view(np.uint8).reshape(len(array), width * 2)
    present = data.reshape(len(array), width).any(axis=1)
    offsets = np.concatenate(([0], np.cumsum(present * (width * 2)))).astype(np.int32)
    return pa.StringArray.from_buffers(
        len(array), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits[present]))
    )


def spelt_numbers(texts: pa.Array) -> Floats:
    """The numbers that texts spell; NaN for a text that spells none, or one too large."""
    series = to_series(texts)
    spelt = series.str.contains(_NUMBER)
    plain = series.str.strip_prefix("+").str.replace(r"\A(-?)\.", "${1}0.").str.replace(r"\.([eE]|\z)", "${1}")
    numbers = plain.set(~spelt, None).cast(pl.Float64, strict=False)
    result: Floats = numbers.fill_null(np.nan).to_numpy()
    return np.where(np.isinf(result), np.nan, result)


def in_network(texts: pa.Array, network: AddressRange) -> Mask:
    """Which texts are addresses of a network.

    IPv4 is read in columns; each distinct text that looks like IPv6 is read by itself.
    """
    series = to_series(texts)
    mask = np.zeros(len(texts), np.bool_)
    if network.is_ipv4:
        dotted = np.flatnonzero(series.str.contains(_IPV4).fill_null(value=False).to_numpy())
        if len(dotted):
            octets = series.gather(dotted).str.extract_groups(_IPV4).struct.unnest().cast(pl.UInt32).to_numpy()
            values = octets.astype(np.int64) @ np.array([1 << 24, 1 << 16, 1 << 8, 1])
            mask[dotted] = (values >= network.first - _MAPPED) & (values <= network.last - _MAPPED)
    colons = np.flatnonzero(series.str.contains(":", literal=True).to_numpy())
    if len(colons):
        candidates = series.gather(colons)
        distinct = candidates.unique()
        good = distinct.filter(distinct.str.contains(_IPV6) & ~distinct.str.contains(_ZERO_LED))
        inside = [text for text in good.to_list() if _ipv6_inside(text, network)]
        mask[colons] = candidates.is_in(pl.Series(inside, dtype=pl.String).implode()).to_numpy()
    return mask


def _ipv6_inside(text: str, network: AddressRange) -> bool:
    try:
        value = int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big")
    except OSError:
        return False
    is_mapped = value >> 32 == 0xFFFF
    return network.first <= value <= network.last and is_mapped is network.is_ipv4
