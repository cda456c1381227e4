"""The second pass over dumps: names that a model finds in running text, treated by the policy as what the rules find.

It reads what the rules have left: texts of the body and of attributes in which several words stand, one of them with a capital.
Nothing that an action wrote is taken in again. Equal texts are read once.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.errors import DrainingError
from heimdall_server.protect import maps
from heimdall_server.protect.actions import Action, Effects, mask
from heimdall_server.protect.columns import FlatMap, Indices, gather, scattered, text_bytes
from heimdall_server.protect.names_model import CLASSES, NamedSpan, NamesModel
from heimdall_server.protect.places import Ledger, Placement
from heimdall_server.protect.rows import Rows
from heimdall_server.protect.spans import Spans, large, spliced
from heimdall_server.protect.view import PolicyView

_SCOPES: Final = ("attributes", "resource")
_RUNNING_TEXT: Final = r"\p{Lu}\p{Ll}.*\s\S*\p{L}{2}|\p{L}{2}\S*\s.*\p{Lu}\p{Ll}"
_CHUNK_TEXTS: Final = 64
_PIECE_CHARACTERS: Final = 50_000
"""Longer texts are read piece by piece: the model's memory grows with a text."""
_WRITTEN: Final = re.compile(r"\[(?:[a-z0-9_]+:)*[A-Za-z0-9_=-]+\]")
"""What actions write, and look-alikes."""
_NO_NAME: Final = re.compile(r"""["\\{}\[\]<>=|@\r\n\t]|[0-9]{5}""")
"""What no name holds; a span with it would break JSON, or comes of a table that isn't running text."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Texts of one field."""

    column: str
    field: str
    indices: Indices


@dataclass(frozen=True, slots=True)
class _Found:
    """A name in one of the distinct texts; in bytes."""

    start: int
    end: int
    data_class: str
    value: str


class NamesPass:
    """Looks for names in what the rules have left of dumps. Thread-safe."""

    def __init__(self, model: NamesModel, *, texts_per_s: float = 0.0, remember: bool = False) -> None:
        """Take a model.

        Args:
            model: Loaded when the first dump comes.
            texts_per_s: So many distinct texts are read a second at most, the thread sleeps in between; 0: as fast as it goes.
            remember: Keep what was found, for one who asks the same texts again and is gone soon.
        """
        self._model = model
        self._known: dict[str, list[_Found]] | None = {} if remember else None
        self._texts_per_s = texts_per_s
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End what is being read, and read nothing more: `treat` raises then. Thread-safe."""
        self._stopping.set()

    def treat(self, batch: pa.RecordBatch, view: PolicyView, effects: Effects) -> pa.RecordBatch:
        """Treat names in the rows that belong to dumps.

        Args:
            batch: As the rules have left it.
            view: The policy.
            effects: Counts, and what must be durable.

        Returns:
            The same rows.

        Raises:
            ModuleNotFoundError: The model isn't installed.
            DrainingError: After `stop`.
        """
        if not text_bytes(batch.column("dump")) or not any(name in view.acts for name in CLASSES):
            return batch
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        flat = {scope: FlatMap.of(columns[scope]) for scope in _SCOPES}
        parts = list(_parts(columns, flat))
        if not parts:
            return batch
        items = {name: flat[name].items if name in flat else columns[name] for name in ("body", *_SCOPES)}
        texts = pl.concat([gather(items[part.column], part.indices) for part in parts], rechunk=True)
        treated = _Treated(parts, texts, self._find(texts), view, effects)
        if not treated.changed:
            return batch
        changes: dict[str, list[maps.Change]] = defaultdict(list)
        words = treated.write(flat, changes, batch.num_rows)
        for name, of_column in changes.items():
            indices, values = change = maps.merged(of_column)
            if name in flat:
                columns[name] = maps.with_values(flat[name], change)[0].column()
            else:
                columns[name] = scattered(columns[name], indices, values.fill_null(""))
        if words is not None and "tokens" in columns:
            columns["tokens"] = _with_words(columns["tokens"], words)
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=batch.schema)

    def _find(self, texts: pl.Series) -> list[list[_Found]]:
        """By text what was found in it; equal texts share a list."""
        encoded = large(texts).dictionary_encode()
        distinct: list[str] = encoded.dictionary.to_pylist()
        known = self._known if self._known is not None else {}
        pieces = [
            (number, at, text[at : at + _PIECE_CHARACTERS])
            for number, text in enumerate(distinct)
            if text not in known
            for at in range(0, len(text), _PIECE_CHARACTERS)
        ]
        found: list[list[_Found]] = [known.get(text, []) for text in distinct]
        began = time.monotonic()
        for first in range(0, len(pieces), _CHUNK_TEXTS):
            chunk = pieces[first : first + _CHUNK_TEXTS]
            for span in self._model.find([text for *_, text in chunk]):
                number, at, _ = chunk[span.row]
                found[number] = [*found[number], *_usable(distinct[number], span, at)]
            ahead_s = 0.0
            if self._texts_per_s:
                ahead_s = max(0.0, (first + len(chunk)) / self._texts_per_s - (time.monotonic() - began))
            if self._stopping.wait(ahead_s):
                raise DrainingError
        if self._known is not None:
            self._known |= dict(zip(distinct, found, strict=True))
        return [found[code] for code in encoded.indices.to_pylist()]


class _Treated:
    """What becomes of the texts of a batch. Not thread-safe."""

    def __init__(
        self,
        parts: Sequence[_Part],
        texts: pl.Series,
        found: Sequence[Sequence[_Found]],
        view: PolicyView,
        effects: Effects,
    ) -> None:
        self._parts = parts
        self._texts = texts
        self._effects = effects
        self._gone: set[int] = set()
        self._masked: list[tuple[int, _Found]] = []
        self._kept: list[tuple[int, int, _Found, Action]] = []
        """Part, text, name, action."""
        start = 0
        for number, part in enumerate(parts):
            actions = {name: action for name in CLASSES if (action := view.action(name, part.field)).rewrites}
            for text in range(start, start + len(part.indices)):
                for one in found[text]:
                    self._note(number, text, one, actions.get(one.data_class))
            start += len(part.indices)

    @property
    def changed(self) -> bool:
        """Whether anything was found that isn't kept."""
        return bool(self._gone or self._masked or self._kept)

    def _note(self, part: int, text: int, found: _Found, action: Action | None) -> None:
        if action is None:
            return
        self._effects.hits[found.data_class] += 1
        if action.drops:
            self._gone.add(text)
        elif action.masks:
            self._masked.append((text, found))
        else:
            self._kept.append((part, text, found, action))

    def write(
        self, flat: dict[str, FlatMap], changes: dict[str, list[maps.Change]], row_count: int
    ) -> pa.StringArray | None:
        """Put what the actions write in place; returns words for `tokens`, by row."""
        ledger, starts = Ledger(), np.cumsum([0, *(len(part.indices) for part in self._parts)])
        groups: dict[tuple[int, str, Action], list[tuple[int, _Found]]] = defaultdict(list)
        for part, text, one, action in self._kept:
            if text not in self._gone:
                groups[part, one.data_class, action].append((text, one))
        placements: list[Placement] = []
        numbered: list[tuple[int, _Found, int]] = []
        for (part, data_class, action), some in groups.items():
            ids = ledger.add(action, data_class, pa.array([one.value for _, one in some], pa.large_string()))
            own = np.array([text for text, _ in some]) - starts[part]
            placements.append(Placement(self._parts[part].column, self._parts[part].indices[own], ids))
            numbered += [(text, one, number) for (text, one), number in zip(some, ids.tolist(), strict=True)]
        rows = Rows(placements, flat, {}, {})
        alive = np.concatenate([one.ids for one in placements]) if placements else np.empty(0, np.int64)
        written = ledger.write(alive, rows.origins, self._effects)
        forms = written.texts.to_pylist()
        inserts = [(text, one.start, one.end, mask(one.data_class)) for text, one in self._masked]
        inserts += [(text, one.start, one.end, forms[number]) for text, one, number in numbered]
        inserts.sort()
        spans = Spans.of((text, start, end) for text, start, end, _ in inserts)
        if inserts:
            done = pl.Series(
                "", spliced(large(self._texts), spans, pa.array([one[3] for one in inserts], pa.large_string()))[0]
            )
        else:
            done = self._texts
        touched = np.zeros(len(self._texts), np.bool_)
        touched[spans.rows] = True
        if self._gone:
            gone = np.array(sorted(self._gone))
            touched[gone] = True
            done = done.scatter(gone, None)
        for place, field in enumerate(self._parts):
            own = touched[starts[place] : starts[place + 1]]
            if own.any():
                changes[field.column].append(
                    (field.indices[own], done[int(starts[place]) : int(starts[place + 1])].filter(own))
                )
        return rows.words(written, row_count) if len(ledger) else None


def _parts(columns: dict[str, pa.Array], flat: dict[str, FlatMap]) -> Iterator[_Part]:
    """Running texts of dumps, by field."""
    of_dump = pc.not_equal(columns["dump"], "").to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(of_dump)
    rows = rows[_running(columns["body"], rows)]
    if len(rows):
        yield _Part("body", "body", rows)
    for scope, mapping in flat.items():
        entries = mapping.entries(of_dump)
        entries = entries[_running(mapping.items, entries)]
        if not len(entries):
            continue
        keys = mapping.keys.take(pa.array(entries)).dictionary_encode()
        codes = keys.indices.to_numpy()
        for code, key in enumerate(keys.dictionary.to_pylist()):
            yield _Part(scope, f"{scope}.{key}", entries[codes == code])


def _running(texts: pa.StringArray, chosen: Indices) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    flags: np.ndarray[tuple[int], np.dtype[np.bool_]] = gather(texts, chosen).str.contains(_RUNNING_TEXT).to_numpy()
    return flags


def _usable(text: str, span: NamedSpan, at: int) -> Iterator[_Found]:
    """A span as it stands in the whole text, unless it holds what no name does."""
    start, end = at + span.start, at + span.end
    value = text[start:end]
    if _NO_NAME.search(value):
        return
    near = max(0, start - 200)
    for written in _WRITTEN.finditer(text, near, min(len(text), end + 200)):
        if written.start() < end and start < written.end():
            return
    if text.isascii():
        yield _Found(start, end, span.data_class, value)
    else:
        first = len(text[:start].encode())
        yield _Found(first, first + len(value.encode()), span.data_class, value)


def _with_words(tokens: pa.StringArray, words: pa.StringArray) -> pa.StringArray:
    joined = pc.binary_join_element_wise(tokens, words, " ")
    return pc.utf8_trim(joined, characters=" ").cast(pa.string())
