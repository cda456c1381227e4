"""From a batch's texts to the few that the rules run over.

Those are the texts that pass the gate as they stand, and those that only pass it as they read (`disguises`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.protect.columns import Flags, FlatMap, Indices, gather, joined_by_row, text_bytes
from heimdall_server.protect.disguises import decoded_base64, disguised
from heimdall_server.protect.readable import Readable
from heimdall_server.protect.run import Found
from heimdall_server.protect.shapes import Answers
from heimdall_server.protect.view import PolicyView, Steps

MAPS: Final = ("attributes", "resource")
_NONE: Final = np.empty(0, np.int64)


def search(texts: Mapping[str, pa.StringArray], flat: Mapping[str, FlatMap], view: PolicyView) -> list[Found]:
    """Put every text through the gate.

    Args:
        texts: Columns by name, without nulls.
        flat: Maps by name; those in `MAPS` are searched.
        view: The policy.

    Returns:
        What may hold something. No text of a column is in two of them.
    """
    searched = {name: column for name, column in texts.items() if text_bytes(column)}
    for name in MAPS:
        if name in flat and text_bytes(flat[name].items):
            searched[name] = joined_by_row(flat[name].items, flat[name].offsets)
    if not searched:
        return []
    gated = view.gate.passed(list(searched.values()))
    found: list[Found] = []
    start = 0
    for name, column in searched.items():
        here = slice(start, start + len(column))
        passed = gated.any[here]
        start += len(column)
        if name in flat:
            found += _of_map(name, flat[name], passed, view)
            continue
        hidden = _hidden(column, view)
        if len(hidden):
            passed = passed.copy()
            passed[hidden] = False
            found.append(Found(name, hidden, gather(column, hidden), view.steps(name), disguised=True))
        if passed.any():
            indices = np.flatnonzero(passed)
            answers = gated.answers.take(indices + here.start)
            found.append(Found(name, indices, gather(column, indices), view.steps(name), answers))
    return found


def _hidden(texts: pa.StringArray, view: PolicyView) -> Indices:
    """Texts that pass the gate as they read, and read otherwise than they stand."""
    rows = disguised(texts)
    if not len(rows):
        return rows
    read = Readable(gather(texts, rows)).texts
    return rows[view.gate.passed([read.to_arrow().cast(pa.string())]).any]


def _of_map(name: str, mapping: FlatMap, rows: Flags, view: PolicyView) -> list[Found]:
    """Find the values that pass the gate, in rows of which some value passes it or by themselves."""
    hidden = _hidden(mapping.items, view)
    encoded, texts = decoded_base64(mapping.items)
    if len(encoded):
        passed = view.gate.passed([pa.array(texts, pa.string())]).any
        encoded, texts = encoded[passed], [text for text, kept in zip(texts, passed.tolist(), strict=True) if kept]
    found = []
    if rows.any():
        entries = mapping.entries(rows)
        entries = np.setdiff1d(entries, np.union1d(hidden, encoded)) if len(hidden) or len(encoded) else entries
        gated = view.gate.passed([mapping.items.take(pa.array(entries))])
        chosen = np.flatnonzero(gated.any)
        entries = entries[chosen]
        answers = gated.answers.take(chosen)
        found += _by_steps(name, mapping, entries, gather(mapping.items, entries), view, answers)
    if len(hidden):
        found += _by_steps(name, mapping, hidden, gather(mapping.items, hidden), view, disguised=True)
    if len(encoded):
        found += _by_steps(name, mapping, encoded, pl.Series("", texts, pl.String), view)
    return found


def _by_steps(
    name: str,
    mapping: FlatMap,
    entries: Indices,
    values: pl.Series,
    view: PolicyView,
    answers: Answers | None = None,
    *,
    disguised: bool = False,
) -> list[Found]:
    """Values of a map as they are treated alike."""
    keys = mapping.keys.take(pa.array(entries)).dictionary_encode()
    by_steps: dict[Steps, list[int]] = defaultdict(list)
    for code, key in enumerate(keys.dictionary.to_pylist()):
        by_steps[view.steps(f"{name}.{key}")].append(code)
    codes = keys.indices.to_numpy()
    whole = np.arange(len(entries))
    found = []
    for steps, wanted in by_steps.items():
        chosen = whole if len(by_steps) == 1 else np.flatnonzero(np.isin(codes, wanted))
        theirs = None if answers is None else answers.take(chosen)
        found.append(Found(name, entries[chosen], values.gather(chosen), steps, theirs, disguised=disguised))
    return found
