"""Records of dumps that come again are known, however they are cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.domain.graph import Provenance
from heimdall_server.domain.graph_batches import Flags, Numbers, RecordMarks
from heimdall_server.domain.graph_profiles import Hashes, Profile
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.projections.graph.dump_records import FreshRecords, besides, fresh_records
from heimdall_server.projections.graph.extraction import look
from heimdall_server.projections.graph.fitting import Fitting
from heimdall_server.projections.graph.record_hashes import record_hashes
from tests.support.random_records import record

texts = st.sampled_from(["", "a", "b", "ab", "a.example", "198.51.100.7", "x" * 1030, "[email]"])
rows = st.builds(
    lambda number, attributes, numbers, flag, dump: record(
        number,
        source="s",
        dump=dump,
        record_number=number + 1 if dump else 0,
        attributes=attributes,
        attributes_number=numbers,
        attributes_bool={"ok": flag},
    ),
    st.integers(0, 9),
    st.dictionaries(st.sampled_from(["a", "b", "note"]), texts, max_size=3),
    st.dictionaries(st.sampled_from(["n", "m"]), st.sampled_from([0.0, -0.0, 1.5, 1e300]), max_size=2),
    st.booleans(),
    st.sampled_from(["", "forum", "shop"]),
)


def batch(some: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(some), schema=RECORD_SCHEMA)


class Kept:
    """What was applied."""

    def __init__(self) -> None:
        self.marks: set[tuple[bytes, int, int]] = set()

    async def knows(self, provenance: Provenance, numbers: Numbers, hashes: Hashes) -> Flags:
        pairs = zip(numbers.tolist(), hashes.tolist(), strict=True)
        return np.array([(provenance.digest, *pair) in self.marks for pair in pairs], bool)

    def keep(self, marks: Sequence[RecordMarks]) -> None:
        for one in marks:
            for number, mark in zip(one.numbers.tolist(), one.hashes.tolist(), strict=True):
                assert (one.provenance.digest, number, mark) not in self.marks
                self.marks.add((one.provenance.digest, number, mark))

    def fresh(self, *batches: pa.RecordBatch) -> FreshRecords:
        found = asyncio.run(fresh_records([(place, one) for place, one in enumerate(batches, 1)], "here", self.knows))
        self.keep(found.marks)
        return found


@settings(max_examples=40, deadline=None)
@given(st.lists(rows, max_size=12), st.integers(0, 12))
def test_hashes_are_the_same_however_records_are_cut(some: list[dict[str, Any]], at: int) -> None:
    whole = batch(some)
    hashes = record_hashes(whole)
    parts = [record_hashes(whole.slice(0, at)), record_hashes(whole.slice(at))]
    assert np.concatenate(parts).tolist() == hashes.tolist()
    assert (hashes != 0).all()
    said = [repr({**one, "record_number": 0, "dump": "", "source": ""}) for one in whole.to_pylist()]
    for first, one in enumerate(said):
        for second, other in enumerate(said):
            assert (hashes[first] == hashes[second]) == (one == other)


@settings(max_examples=40, deadline=None)
@given(st.lists(rows, max_size=12, unique_by=lambda one: (one["dump"], one["record_number"])), st.integers(0, 12))
def test_a_dump_that_comes_again_brings_nothing_however_it_is_cut(some: list[dict[str, Any]], at: int) -> None:
    twice = [*some, *(one for one in some[:at] if one["dump"])]
    kept, whole = Kept(), batch(twice)
    first = kept.fresh(whole)
    again = kept.fresh(whole.slice(0, at), whole.slice(at))
    in_logs = sum(one["dump"] == "" for one in some)
    assert sum(len(one) for _, one in again.batches) == in_logs
    assert sum(len(one) for _, one in first.batches) == len(some)


def test_a_record_with_other_words_is_another_one() -> None:
    kept = Kept()
    rows_ = [record(number, dump="d", record_number=number + 1, attributes={"a": "x"}) for number in range(3)]
    kept.fresh(batch(rows_))
    changed = [*rows_[:2], record(2, dump="d", record_number=3, attributes={"a": "y"})]
    found = kept.fresh(batch(changed))
    assert found.batches[0][1].column("record_number").to_pylist() == [3]


def test_a_record_that_comes_again_while_it_is_being_kept_is_known() -> None:
    kept = Kept()
    every = [record(number, dump="d", record_number=number + 1, attributes={"a": "x"}) for number in range(8)]
    rows_ = batch(every[0:6:2])
    under_way = asyncio.run(fresh_records([(1, rows_)], "here", kept.knows))  # and not kept yet
    found = asyncio.run(fresh_records([(2, batch(every))], "here", besides(kept.knows, under_way.marks)))
    assert found.batches[0][1].column("record_number").to_pylist() == [2, 4, 6, 7, 8]


@settings(max_examples=40, deadline=None)
@given(st.lists(rows, max_size=12), st.randoms(use_true_random=False))
def test_each_record_is_taken_in_once_whatever_the_order_the_cuts_and_the_repeats(
    some: list[dict[str, Any]], chance: random.Random
) -> None:
    in_dumps = [one for one in some if one["dump"]]
    every = [*in_dumps, *chance.choices(in_dumps, k=len(in_dumps))] if in_dumps else []
    chance.shuffle(every)
    kept, taken, begin = Kept(), [], 0
    under_way: tuple[RecordMarks, ...] = ()
    while begin < len(every):
        end = begin + chance.randint(1, 5)
        part = [(1, batch(every[begin:end]))]
        found = asyncio.run(fresh_records(part, "here", besides(kept.knows, under_way)))
        kept.keep(under_way)
        under_way, begin = found.marks, end
        taken += [repr(row) for _, one in found.batches for row in one.to_pylist()]
    distinct = {repr(row) for row in batch(in_dumps).to_pylist()}
    assert sorted(taken) == sorted(distinct)


@settings(max_examples=25, deadline=None)
@given(st.lists(rows, max_size=10), st.lists(st.integers(0, 10), max_size=3))
def test_profiles_are_the_same_however_a_dump_is_cut(some: list[dict[str, Any]], cuts: list[int]) -> None:
    def profiled(batches: Sequence[pa.RecordBatch]) -> dict[tuple[bytes, bytes], Profile]:
        found: dict[tuple[bytes, bytes], Profile] = {}
        for one in batches:
            looked = look([(1, one)], instance="here")
            facts = looked.facts(lambda _, values: pa.nulls(len(values), pa.string()))
            for part in facts.profiles:
                key = (facts.provenances[part.provenance].digest, part.id)
                found[key] = found.get(key, Profile()).merged(part.profile)
        return found

    whole = batch(some)
    bounds = [0, *sorted(min(cut, len(some)) for cut in cuts), len(some)]
    parts = [whole.slice(begin, end - begin) for begin, end in pairwise(bounds)]
    assert profiled(parts) == profiled([whole])
    told = profiled([whole])
    dumps = {one["dump"] for one in some if one["dump"]}
    assert sum(one.row_count for one in told.values()) == sum(one["dump"] in dumps for one in some)


def test_a_batch_is_as_large_as_the_last_ones_let_it_be() -> None:
    fitting = Fitting()
    first = fitting.rows_max
    fitting.learn(1000, 1000)
    assert fitting.rows_max > first
    fitting.learn(10, 1000)
    assert fitting.rows_max < 2_400
    fitting.learn(0, 0)
    assert fitting.rows_max < 2_400
    fitting.learn(1, 10**9)
    assert fitting.rows_max == 1
