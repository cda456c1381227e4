"""Loki's push, protobuf or JSON → entries in columns → lines of JSON, which are read like any other.

A line has the entry's labels (its stream's, then its own), `time` and `msg`, last, since of a name that comes again the
last counts. What names the service and the host in Loki's world has other names than elsewhere, so it is told once more
under the name that the decoder knows.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall.stored.v1 import loki_shadow_pb2
from heimdall_server.decode.protobuf_columns import reader_of
from heimdall_server.edge.http.messages import RefusedError

ENTRIES_MAX: Final = 1 << 18
"""Entries of one request: a few bytes can be one, and in columns each takes 300."""
SPREAD_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes that the labels may become when each entry gets its stream's."""
_LABEL: Final = re.compile(r'([^\s{},="]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|`([^`]*)`)')
_OURS: Final = frozenset({"time", "msg"})
_RENAMED: Final = "label."
_SERVICE: Final = (
    "service", "service.name", "app", "service_name", "application", "app_name", "name", "app_kubernetes_io_name",
    "container", "container_name", "k8s_container_name", "component", "workload", "job", "k8s_job_name",
)  # fmt: skip
"""Labels that name the service, the surest first: what the decoder knows, then those by which Loki finds it."""
_HOST: Final = ("host", "hostname", "host.name", "host_name", "node_name", "nodename", "node", "instance")
_LEVEL: Final = ("level", "severity", "lvl", "detected_level")
_KNOWN: Final[Mapping[str, tuple[Sequence[str], frozenset[str]]]] = {
    "service": (_SERVICE, frozenset({"service", "service.name", "app"})),
    "host": (_HOST, frozenset({"host", "hostname", "host.name"})),
    "level": (_LEVEL, frozenset({"level", "severity", "lvl"})),
}
"""Field → labels for it, and those that the decoder finds by itself."""

_Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Entries:
    """A push, in columns."""

    labels: Sequence[str]
    """Each stream's labels as members of a JSON object, a comma behind each."""
    stream_of: _Index
    """Shape (entry,)."""
    times: pa.Array
    """Nanoseconds as text."""
    lines: pa.Array
    """Text."""
    own: pa.ListArray
    """Each entry's own labels: structs of `name` and `value`."""


def of_protobuf(body: bytes) -> Entries:
    """Read `logproto.PushRequest`, its compression undone.

    Raises:
        RefusedError: It isn't one.
    """
    try:
        streams = _reader()([body]).column(0).values
    except ValueError:
        damaged = "not a Loki push request: truncated, not protobuf, or a label isn't UTF-8"
        raise RefusedError(400, damaged) from None
    entry_lists = streams.field("entries")
    entries = entry_lists.values
    stamps = entries.field("timestamp")
    # Where the stamp is left out its parts are null; an entry without a time takes the moment it came.
    seconds, nanos = (pc.fill_null(stamps.field(name), 0).cast(pa.int64()).to_numpy() for name in ("seconds", "nanos"))
    usable = np.abs(seconds) < np.iinfo(np.int64).max // 1_000_000_000 - 1
    times = pa.array(np.where(usable, seconds, 0) * 1_000_000_000 + nanos).cast(pa.string())
    none = pa.scalar("", pa.string())
    times = pc.if_else(pa.array((seconds == 0) & (nanos == 0)), none, times)
    return Entries(
        [labels_of(text) for text in streams.field("labels").to_pylist()],
        np.repeat(np.arange(len(streams)), np.diff(entry_lists.offsets.to_numpy())),
        times,
        _text(entries.field("line")),
        entries.field("structured_metadata"),
    )


def of_json(body: bytes) -> Entries:
    """Read the push request's JSON.

    Raises:
        RefusedError: It isn't one.
    """
    try:
        streams = json.loads(body)["streams"]
        labels = [_members(stream["stream"]) for stream in streams]
        lists = [stream["values"] for stream in streams]
        entries = list(chain.from_iterable(lists))
        times = pa.array(map(str, map(itemgetter(0), entries)), pa.string())
        lines = pa.array(map(itemgetter(1), entries), pa.string())
        stream_of = np.repeat(np.arange(len(lists)), list(map(len, lists)))
        return Entries(labels, stream_of, times, lines, _own_of_json(entries))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, pa.ArrowException, RecursionError) as error:
        problem = f"at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else "of another shape"
        raise RefusedError(400, f"not a Loki push request in JSON: {problem}") from None


def to_documents(entries: Entries) -> bytes:
    """Lines of JSON, one an entry.

    Raises:
        RefusedError: Too many entries, or their labels take too much when each gets them.
    """
    if not len(entries.stream_of):
        return b""
    if len(entries.stream_of) > ENTRIES_MAX:
        many = f"more than {ENTRIES_MAX} entries in one request; send smaller ones"
        raise RefusedError(413, many)
    sizes = np.array([len(text) for text in entries.labels], np.int64)
    if int(sizes[entries.stream_of].sum()) > SPREAD_BYTES_MAX:
        large = "the labels take too much when each entry gets its stream's; send smaller requests"
        raise RefusedError(413, large)
    frame = pl.DataFrame({"time": pl.Series(entries.times), "msg": pl.Series(entries.lines)})
    labels = pl.Series(entries.labels, dtype=pl.String).gather(entries.stream_of)
    # Of an entry without a time `time` is left out: blank says nothing.
    lines = frame.select(
        pl.lit("{")
        + labels
        + pl.Series(_own_members(entries.own))
        + pl.struct("time", "msg").struct.json_encode().str.strip_prefix("{")
        + pl.lit("\n")
    ).to_series()
    return str(lines.str.join("")[0]).encode()


@functools.lru_cache(maxsize=4096)
def labels_of(text: str) -> str:
    """Members of a JSON object, a comma behind each, from `{app="shop", host="web-1"}`."""
    found = {}
    for name, quoted, raw in _LABEL.findall(text):
        found[name] = raw or _unquoted(quoted)
    return _members(found)


def _members(labels: Mapping[str, Any]) -> str:
    named = {_RENAMED + name if name in _OURS else name: value for name, value in labels.items()}
    for field, (candidates, found_anyway) in _KNOWN.items():
        best = next((name for name in candidates if labels.get(name)), None)
        if best is not None and best not in found_anyway:
            named.setdefault(field, labels[best])
    text = json.dumps(named, ensure_ascii=False, separators=(",", ":"))[1:-1]
    return f"{text}," if text else ""


def _unquoted(text: str) -> str:
    if "\\" not in text:
        return text
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text


@functools.cache
def _reader() -> Callable[[list[bytes]], pa.RecordBatch]:
    return reader_of(loki_shadow_pb2.LokiPush.DESCRIPTOR)


def _text(lines: pa.BinaryArray) -> pa.StringArray:
    try:
        return lines.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([raw.decode(errors="replace") for raw in lines.to_pylist()], pa.string())


def _own_of_json(entries: Sequence[Sequence[Any]]) -> pa.ListArray:
    """The third part of an entry, which few have."""
    lengths = np.zeros(len(entries), np.int32)
    pairs: list[dict[str, str]] = []
    for number in np.flatnonzero(np.fromiter(map(len, entries), np.int64, len(entries)) > 2).tolist():
        own = entries[number][2]
        pairs += [{"name": name, "value": str(value)} for name, value in own.items()]
        lengths[number] = len(own)
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    kind = pa.struct([pa.field("name", pa.string()), pa.field("value", pa.string())])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(pairs, kind))


def _own_members(own: pa.ListArray) -> pa.Array:
    """Each entry's own labels as members, a comma behind each."""
    pairs = own.flatten()
    if not len(pairs):
        return pa.array([""] * len(own), pa.string()) if len(own) else pa.array([], pa.string())
    names = pc.fill_null(pairs.field("name"), "")
    ours = pc.is_in(names, pa.array(sorted(_OURS), pa.string()))
    names = pc.if_else(ours, pc.binary_join_element_wise(_RENAMED, names, ""), names)
    frame = pl.DataFrame({"name": pl.Series(names), "value": pl.Series(pc.fill_null(pairs.field("value"), ""))})
    texts = frame.select(_encoded("name") + ":" + _encoded("value") + ",").to_series().to_arrow().cast(pa.string())
    offsets = own.offsets.to_numpy()
    lists = pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), texts)
    return pc.binary_join(lists, "")


def _encoded(column: str) -> pl.Expr:
    """Texts as JSON: that of a struct of one field, without the braces and the field's name."""
    return pl.struct(pl.col(column).alias("_")).struct.json_encode().str.strip_prefix('{"_":').str.strip_suffix("}")
