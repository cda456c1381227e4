"""What tokens cost a whole server over masks: the same records by the same door, with every personal value treated one way or the other.

As many records as in the samples hold something personal, one mail address each. Some are new, the others were seen before, any of them
alike; nothing is sent twice, or all would soon be known. The vault takes in what is new meanwhile, on the same machine; its CPU time is told apart, since it delays nobody.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import polars as pl

from heimdall_client.samples import sample_ndjson
from heimdall_server.protect.texts import masked_text
from tests.bench import corpus, load
from tests.bench.instance import Instance, running
from tests.bench.report import Measured

STREAMS: Final = 2
NEW_SHARES: Final = (0.1, 0.4)
MUST: Final = {0.1: 0.8, 0.4: 0.4}
"""Of masking's speed, by the share of values that are new."""
VALUE_SHARE: Final = 0.4
"""Of records, those that hold a value."""
_TEMPLATE_ROWS: Final = 4_000
_WARM_ROWS: Final = 60_000
Action = Literal["mask", "tokenise"]
Place = Literal["body", "attribute"]


@dataclass(frozen=True)
class ProtectionFigure:
    """One run."""

    action: str
    new_share: float
    place: str
    """Where the value stands: what stands in an attribute is found by the store's column of tokens, which is filled then."""
    rows_per_s: float
    """Acknowledged."""
    cpu_us_per_row: float
    """Of the server until the store had everything."""
    vault_us_per_row: float
    """Of PostgreSQL, meanwhile."""


@dataclass(frozen=True)
class ProtectionFigures:
    """All runs."""

    runs: list[ProtectionFigure]

    def measured(self, section: str) -> list[Measured]:
        """As a report's lines."""
        lines = []
        for share in NEW_SHARES:
            mask, token = self._run("mask", share, "body"), self._run("tokenise", share, "body")
            name = f"{share:.0%} new values"
            speed, cpu = token.rows_per_s / mask.rows_per_s, mask.cpu_us_per_row / token.cpu_us_per_row
            lines += [
                Measured(section, f"tokenise to mask, {name}", speed, "", MUST[share], more_is_better=True),
                Measured(section, "  by CPU time of the server", cpu, "", MUST[share], more_is_better=True),
                Measured(section, "  mask", mask.rows_per_s, "logs/s"),
                Measured(section, "  tokenise", token.rows_per_s, "logs/s"),
                Measured(section, "  mask, CPU a row", mask.cpu_us_per_row, "µs"),
                Measured(section, "  tokenise, CPU a row", token.cpu_us_per_row, "µs"),
                Measured(section, "  PostgreSQL, CPU a row", token.vault_us_per_row, "µs"),
            ]
        in_body, apart = (self._run("tokenise", NEW_SHARES[0], place) for place in ("body", "attribute"))
        plain = self._run("mask", NEW_SHARES[0], "attribute")
        lines += [
            Measured(section, "values in an attribute: mask, CPU a row", plain.cpu_us_per_row, "µs"),
            Measured(section, "  tokenise, the column of tokens filled", apart.cpu_us_per_row, "µs"),
            Measured(section, "  against values in the body", apart.cpu_us_per_row / in_body.cpu_us_per_row, ""),
        ]
        return lines

    def _run(self, action: Action, new_share: float, place: Place) -> ProtectionFigure:
        return next(one for one in self.runs if (one.action, one.new_share, one.place) == (action, new_share, place))


def measure_protection(rows: int, *, seed: int = 7) -> ProtectionFigures:
    """Run a server for each way and mix.

    Args:
        rows: Of each run.
        seed: Of what is sent.
    """
    mixes: list[tuple[float, Place]] = [*((share, "body") for share in NEW_SHARES), (NEW_SHARES[0], "attribute")]
    runs = []
    for share, place in mixes:
        data = addressed(rows, new_share=share, place=place, seed=seed)
        warm = addressed(_WARM_ROWS, new_share=share, place=place, seed=seed + 1)
        runs += [_measured(action, share, place, warm, data) for action in ("mask", "tokenise")]
    return ProtectionFigures(runs)


def addressed(rows: int, *, new_share: float, place: Place, seed: int) -> bytes:
    """NDJSON of sample records with a mail address in `VALUE_SHARE` of them.

    Args:
        rows: How many.
        new_share: Of the addresses, those that no record before has.
        place: Where they stand.
        seed: Of everything.
    """
    draw = np.random.default_rng(seed)
    holds = draw.random(rows) < VALUE_SHARE
    is_new = draw.random(int(holds.sum())) < new_share
    is_new[:1] = True
    newest = np.cumsum(is_new) - 1
    known = (draw.random(len(is_new)) * (newest + 1)).astype(np.int64)
    who = np.zeros(rows, np.int64)
    who[holds] = np.where(is_new, newest, known)
    people = pl.Series("people", who)
    templates = pl.Series("row", [_without_values(line) for line in _sample_lines(seed)])
    frame = pl.DataFrame([people, templates.gather(draw.integers(0, len(templates), rows))])
    address = pl.format("person.{}.{}@example.com", pl.lit(random.Random(seed).randrange(10**6)), pl.col("people"))
    # What `_without_values` left open.
    text = pl.format(" for {}", address) if place == "body" else address
    text = pl.when(pl.Series("holds", holds)).then(text).otherwise(pl.lit(""))
    placed = pl.col("row").str.replace(_MARKS[place], text, literal=True).str.replace(_OTHER[place], "", literal=True)
    return ("\n".join(frame.select(placed).to_series()) + "\n").encode()


_MARKS: Final = {"body": "\ue000", "attribute": "\ue001"}
_OTHER: Final = {"body": "\ue001", "attribute": "\ue000"}


def _sample_lines(seed: int) -> list[bytes]:
    """Sample records in which nothing else is personal."""
    found = b"".join(sample_ndjson(_TEMPLATE_ROWS, seed=seed, end_time_ns=1_790_000_000 * 10**9, span_s=3600))
    return [line for line in found.splitlines() if masked_text(line.decode(), addresses=True) == line.decode()]


def _without_values(line: bytes) -> str:
    record = json.loads(line)
    record["message"] += _MARKS["body"]
    record["account"] = _MARKS["attribute"]
    return json.dumps(record, ensure_ascii=False)


def _measured(action: Action, share: float, place: Place, warm: bytes, data: bytes) -> ProtectionFigure:
    with running(HEIMDALL_PRIVACY=json.dumps({"rules": [{"action": action}]})) as instance:
        _feed(instance, warm)
        vault_cpu_s = instance.vault_cpu_s()
        found = _feed(instance, data)
        vault_cpu_s = instance.vault_cpu_s() - vault_cpu_s
    return ProtectionFigure(
        action, share, place, found.rows_per_s, found.cpu_us_per_row, vault_cpu_s / found.row_count * 1e6
    )


def _feed(instance: Instance, ndjson: bytes) -> load.IngestFigure:
    rounds = [corpus.ndjson_round(part) for part in corpus.split(ndjson, STREAMS)]
    return load.append(instance, "protection", rounds)
