"""Values that were found, until all rules have run: masks stand in the texts, and what each stands for is kept beside.

So no rule ever sees what another's action wrote, be it a token or a ciphertext: all see masks, as they do where a policy
only masks. What is written instead is asked for once for each action and class, when all columns of a batch have been searched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.protect import ours
from heimdall_server.protect.actions import Action, Effects, Origin, mask
from heimdall_server.protect.columns import Flags, Indices
from heimdall_server.protect.readable import Readable
from heimdall_server.protect.rules import Rule
from heimdall_server.protect.spans import Spans, large, spliced

_ROW: int = 1 << 32


@dataclass(frozen=True, slots=True)
class Placement:
    """Values of one column, by their number in the ledger."""

    column: str
    indices: Indices
    """Of the text in the column: row, entry of a map, or index into its dictionary."""
    ids: Indices


@dataclass(frozen=True, slots=True)
class Written:
    """What is written in place of every value of a ledger, by number."""

    texts: pa.Array
    words: pa.Array
    """Null: none."""
    networks: pa.Array
    """Null: none."""


class Ledger:
    """The values found in one batch, by number. Not thread-safe."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[str, Action], list[tuple[Indices, pa.Array]]] = defaultdict(list)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, action: Action, data_class: str, values: pa.Array) -> Indices:
        """Keep values and number them."""
        ids = np.arange(self._count, self._count + len(values))
        self._count += len(values)
        self._chunks[data_class, action].append((ids, values))
        return ids

    def value(self, number: int) -> str:
        """One value. For the few that a later rule takes in again."""
        for chunks in self._chunks.values():
            for ids, values in chunks:
                if len(ids) and ids[0] <= number <= ids[-1]:
                    return str(values[number - int(ids[0])])
        raise IndexError(number)

    def write(self, alive: Indices, origins: Callable[[Indices], Sequence[Origin]], effects: Effects) -> Written:
        """Ask the actions what to write.

        Args:
            alive: Numbers of the values that still count.
            origins: Where values stood, for actions that want to know.
            effects: Counts, and what must be durable.
        """
        texts: list[pa.Array] = []
        words: list[pa.Array] = []
        networks: list[pa.Array] = []
        # By number of a value, where what is written for it stands in those joined.
        places = np.zeros(self._count, np.int64)
        count = 0
        counts = np.zeros(self._count, np.bool_)
        counts[alive] = True
        for (data_class, action), chunks in self._chunks.items():
            ids = np.concatenate([ids for ids, _ in chunks])
            values = pa.concat_arrays([values for _, values in chunks])
            if not counts[ids].all():
                values, ids = values.filter(pa.array(counts[ids])), ids[counts[ids]]
            stood: Sequence[Origin] = ()
            if action.alike:
                encoded = values.dictionary_encode()
                values, codes = encoded.dictionary, encoded.indices.to_numpy()
            else:
                stood, codes = origins(ids), np.arange(len(ids))
            forms = action.forms(data_class, values.to_pylist(), stood, effects)
            places[ids] = count + codes
            count += len(values)
            for column, written in ((texts, forms.texts), (words, forms.words), (networks, forms.networks)):
                column.append(_array(written, len(values)))
        spread = pa.array(places)
        return Written(*(_spread(column, spread) for column in (texts, words, networks)))


def _array(written: Sequence[str | None] | pa.Array, count: int) -> pa.Array:
    if isinstance(written, pa.Array):
        return written
    return pa.array(written, pa.large_string()) if written else pa.nulls(count, pa.large_string())


def _spread(parts: list[pa.Array], order: pa.Array) -> pa.Array:
    if all(part.null_count == len(part) for part in parts):
        return pa.nulls(len(order), pa.large_string())
    return pa.concat_arrays(parts).take(order)


class MaskedTexts:
    """Texts of which the rules see masks, and where those stand. Not thread-safe."""

    def __init__(self, texts: pl.Series, ledger: Ledger) -> None:
        """Take texts.

        Args:
            texts: String, without nulls; not changed.
            ledger: Where values are kept.
        """
        self._texts: pl.Series | None = texts.clone()
        self._array: pa.Array | None = None
        """The same, but an empty text for a field that goes. None, as above: not made yet."""
        self._gone = np.empty(0, np.int64)
        """Fields that go."""
        self._chosen: dict[str, tuple[Indices, pl.Series, pa.Array]] = {}
        """By gate, the texts that passed it, while they are as they were: several rules have the same."""
        self._ledger = ledger
        self._spans = Spans.of(())
        self._ids = np.empty(0, np.int64)
        self._ours = range(0)
        """Numbers of what was protected before, which no rule takes for a value: see `ours`."""

    @property
    def texts(self) -> pl.Series:
        """As the rules see them; null: the field goes."""
        if self._texts is None:
            texts = pl.Series("", self._array, pl.String)
            self._texts = texts.scatter(self._gone, None) if len(self._gone) else texts
        return self._texts

    def _as_array(self) -> pa.Array:
        if self._array is None:
            self._array = large(self.texts.fill_null("") if len(self._gone) else self.texts)
        return self._array

    def _of(self, gate: str, indices: Indices) -> tuple[pl.Series, pa.Array]:
        known = self._chosen.get(gate)
        if known is None or not np.array_equal(known[0], indices):
            texts = self._as_array()
            chosen = texts if len(indices) == len(texts) else texts.take(pa.array(indices))
            known = self._chosen[gate] = (indices, pl.Series("", chosen, pl.String), chosen)
        return known[1:]

    def apply(self, rule: Rule, action: Action, passed: Flags, effects: Effects, read: Readable | None = None) -> bool:
        """Run a rule over the texts that passed its gate.

        Args:
            rule: The rule.
            action: What becomes of what it finds.
            passed: Which texts passed its gate.
            effects: Counts.
            read: The texts as they read, to look for values in these; nothing but a mask is then written, no quotes of JSON.

        Returns:
            Whether a field went, so that gates must be asked again.
        """
        indices = np.flatnonzero(passed)
        if read is None:
            spans, plain = rule.spans(*self._of(rule.gate, indices)), None
        else:
            spans, plain = read.found(rule, indices)
        if self._ours and plain is None:
            spans = self._without_ours(spans, indices)
        if not len(spans):
            return False
        if action.drops:
            gone = indices[np.unique(spans.rows)]
            effects.hits[rule.data_class] += len(gone)
            self._texts = self.texts.scatter(gone, None)
            self._gone, self._array = np.union1d(self._gone, gone), None
            self._chosen.clear()
            self._keep(~np.isin(self._spans.rows, gone))
            return True
        opening, stands = rule.opening if read is None else "", mask(rule.data_class)
        written = f"{opening}{stands}{rule.closing if opening else ''}"
        here = spans.of_rows(indices)
        self._array, values = spliced(self._as_array(), here, pa.array([written], pa.large_string()))
        self._texts = None
        self._chosen.clear()
        # A mask that stands there already is no find.
        fresh = pc.not_equal(values, stands).to_numpy(zero_copy_only=False) if action.masks else slice(None)
        rows = spans.rows[fresh]
        # They ascend: `np.unique`, which hashes them, took a tenth of protecting a batch.
        effects.hits[rule.data_class] += int(np.count_nonzero(np.diff(rows))) + 1 if len(rows) else 0
        swallowed, shifts = self._shift(here, len(written.encode()))
        if plain is not None:
            # A value in which masks stand is taken as it was, since it is there that their places are known.
            values = pc.if_else(pa.array(np.isin(np.arange(len(spans)), list(swallowed))), values, plain)
        if swallowed:
            values = self._restored(values, swallowed)
        if not action.masks:
            ids = self._ledger.add(action, rule.data_class, values)
            if rule is ours.RULE:
                self._ours = range(int(ids[0]), int(ids[-1]) + 1)
            starts = spans.starts + shifts + len(opening.encode())
            self._place(Spans(here.rows, starts, starts + len(stands.encode())), ids)
        return False

    def placements(self) -> tuple[Indices, Indices]:
        """Rows and numbers of the values that still count, by row."""
        return self._spans.rows, self._ids

    def written(self, written: Written) -> pl.Series:
        """The texts with what the actions wrote in place of the masks."""
        if not len(self._spans):
            return self.texts
        done, _ = spliced(self._as_array(), self._spans, written.texts.take(pa.array(self._ids)))
        texts = pl.Series("", done, pl.String)
        return texts.scatter(self._gone, None) if len(self._gone) else texts

    def _shift(self, spans: Spans, written_bytes: int) -> tuple[dict[int, list[tuple[int, int, int]]], Indices]:
        """Move the masks that stand behind or in what is now replaced.

        Returns:
            By number of a span, the masks in it (start and end within the span, number of the value); by span, how far its
            beginning moves.
        """
        growth = written_bytes - (spans.ends - spans.starts)
        sums = np.cumsum(growth)
        if (spans.rows[1:] > spans.rows[:-1]).all():
            through = growth
        else:
            first = np.searchsorted(spans.rows, spans.rows, "left")
            through = sums - (sums[first] - growth[first])
        if not len(self._ids):
            return {}, through - growth
        places = self._spans
        keys = spans.rows * _ROW + spans.starts
        behind = np.searchsorted(keys, places.rows * _ROW + places.starts, "right") - 1
        same = (behind >= 0) & (spans.rows[behind] == places.rows)
        inside = same & (places.starts < spans.ends[behind])
        following = np.minimum(behind + 1, len(spans) - 1)
        cut = (spans.rows[following] == places.rows) & (spans.starts[following] >= places.starts)
        cut &= spans.starts[following] < places.ends
        swallowed: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for place in np.flatnonzero(inside & (places.ends <= spans.ends[behind])).tolist():
            span = int(behind[place])
            start, end = int(places.starts[place]), int(places.ends[place])
            begin = int(spans.starts[span])
            swallowed[span].append((start - begin, end - begin, int(self._ids[place])))
        shift = np.where(same, through[behind], 0)
        self._spans = Spans(places.rows, places.starts + shift, places.ends + shift)
        self._keep(~(inside | cut))
        return dict(swallowed), through - growth

    def _without_ours(self, spans: Spans, indices: Indices) -> Spans:
        """Spans that aren't just the mask of something protected before, as in `password=[ours]`."""
        theirs = (self._ids >= self._ours.start) & (self._ids < self._ours.stop)
        places, here = self._spans, spans.of_rows(indices)
        known = set(zip(*(part[theirs].tolist() for part in (places.rows, places.starts, places.ends)), strict=True))
        found = zip(here.rows.tolist(), here.starts.tolist(), here.ends.tolist(), strict=True)
        new = np.fromiter((place not in known for place in found), np.bool_, len(here))
        return Spans(spans.rows[new], spans.starts[new], spans.ends[new])

    def _restored(self, values: pa.Array, swallowed: dict[int, list[tuple[int, int, int]]]) -> pa.Array:
        """Values with the earlier ones that were masked in them."""
        texts = values.to_pylist()
        for span, masks in swallowed.items():
            raw = texts[span].encode()
            for start, end, number in reversed(masks):
                raw = raw[:start] + self._ledger.value(number).encode() + raw[end:]
            texts[span] = raw.decode()
        return pa.array(texts, pa.large_string())

    def _keep(self, kept: Flags) -> None:
        spans = self._spans
        if not kept.all():
            self._spans = Spans(spans.rows[kept], spans.starts[kept], spans.ends[kept])
            self._ids = self._ids[kept]

    def _place(self, spans: Spans, ids: Indices) -> None:
        if not len(self._ids):
            self._spans, self._ids = spans, ids
            return
        old = self._spans
        rows = np.concatenate((old.rows, spans.rows))
        starts = np.concatenate((old.starts, spans.starts))
        order = np.argsort(rows * _ROW + starts, kind="stable")
        self._spans = Spans(rows[order], starts[order], np.concatenate((old.ends, spans.ends))[order])
        self._ids = np.concatenate((self._ids, ids))[order]


def distinct_rows(rows: Indices, words: pa.Array) -> tuple[Indices, pa.Array]:
    """Words of each row as one text, distinct, blanks between.

    Args:
        rows: The row of each word, in any order, repeats allowed.
        words: Large strings; null: none.

    Returns:
        Rows, ascending, and their texts.
    """
    valid = pc.is_valid(words).to_numpy(zero_copy_only=False)
    if not valid.all():
        rows, words = rows[valid], words.filter(pa.array(valid))
    frame = pl.DataFrame({"row": rows, "word": pl.Series("", words, pl.String)})
    frame = frame.unique(maintain_order=True).sort("row", maintain_order=True)
    if frame["row"].n_unique() < len(frame):
        frame = frame.group_by("row", maintain_order=True).agg(pl.col("word").str.join(" "))
    return frame["row"].to_numpy(), large(frame["word"])
