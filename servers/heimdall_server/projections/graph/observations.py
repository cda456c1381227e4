"""What is seen in records: a value of a type, in a field of a record.

Texts are searched; a field whose name says what it holds is read by that type, too, so `md5` and `user_agent` are known by name and an
address is found wherever it stands.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from heimdall_server.canonical.catalogue import CANONICALISERS
from heimdall_server.canonical.column import to_arrow
from heimdall_server.canonical.observables import OBSERVABLE_TYPES, find_observables
from heimdall_server.protect.columns import FlatMap

TEXT_TYPES: Final = tuple(name for name in OBSERVABLE_TYPES if name != "url")
"""What texts are searched for. Not URLs: nearly every one is another, and their hosts are found."""
BODY: Final = "body"
HOST: Final = "host"
SCOPES: Final = ("attributes", "resource")
OBSERVATIONS: Final[Mapping[str, pl.DataType]] = {
    "row": pl.UInt32(),
    "field": pl.String(),
    "text": pl.String(),
    "type": pl.String(),
    "value": pl.String(),
    "whole": pl.Boolean(),
}
"""Columns of what `observe` gives: the record's row, the field (`body`, `host`, or an attribute's key), its text where it is an attribute's, and what
it holds; `whole`: that is all it holds."""

NAMED_TYPES: Final[Mapping[str, str]] = {
    **{
        name: name
        for name in (
            "asn cve domain imphash ip ipv4 ipv6 md5 registry_key sha1 sha224 sha256 sha384 sha512 ssdeep tlsh url user_agent".split()  # noqa: SIM905
        )
    },
    "fqdn": "domain",
    "uri": "url",
    "useragent": "user_agent",
}
"""Last words of a field's name, and what they say."""
_WORD: Final = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", re.ASCII)


def observe(
    records: pa.RecordBatch, types: Collection[str] = TEXT_TYPES, *, named: Collection[str] | None = None
) -> pl.DataFrame:
    """Look for values.

    Args:
        records: Of `RECORD_SCHEMA`.
        types: Which to look for in texts.
        named: Which to read fields by that are named for them; None: all.

    Returns:
        `OBSERVATIONS`; a value once a field of a record.
    """
    body = records.column(BODY)
    in_order = np.arange(len(body), dtype=np.uint32)
    parts = [_searched(body, in_order, pl.repeat(BODY, len(body), eager=True), types, keep=False)]
    for scope in SCOPES:
        entries = FlatMap.of(records.column(scope))
        if len(entries):
            rows, keys = entries.rows().astype(np.uint32), pl.Series(entries.keys, dtype=pl.String)
            parts += [_searched(entries.items, rows, keys, types, keep=True), _named(entries.items, rows, keys, named)]
    parts.append(_hosts(records.column(HOST), types))
    return pl.concat(parts).unique(["row", "field", "type", "value"], keep="first", maintain_order=True)


@functools.lru_cache(maxsize=4096)
def type_of_name(name: str) -> str | None:
    """What a field's name says that it holds: `client.ip` and `clientIp` are of the type `ip`."""
    words = [word.lower() for word in _WORD.findall(name)]
    return NAMED_TYPES.get("_".join(words[-2:])) or NAMED_TYPES.get(words[-1] if words else "")


def _searched(
    texts: pa.Array, rows: npt.NDArray[np.uint32], fields: pl.Series, types: Collection[str], *, keep: bool
) -> pl.DataFrame:
    found = find_observables(texts, types)
    at = found["row"].to_numpy()
    return pl.DataFrame(
        {
            "row": rows[at],
            "field": fields.gather(at),
            "text": pl.Series(texts, dtype=pl.String).gather(at) if keep else pl.repeat("", len(at), eager=True),
            "type": pl.Series(found["type"], dtype=pl.String),
            "value": pl.Series(found["value"], dtype=pl.String),
            "whole": pl.Series(found["whole"], dtype=pl.Boolean),
        },
        schema=dict(OBSERVATIONS),
    )


def _hosts(hosts: pa.StringArray, types: Collection[str]) -> pl.DataFrame:
    """What hosts hold. A batch has few: each is searched once."""
    encoded = hosts.dictionary_encode()
    found = find_observables(encoded.dictionary, types)
    if not len(found):
        return pl.DataFrame(schema=dict(OBSERVATIONS))
    codes = pl.DataFrame({"code": pl.Series(encoded.indices, dtype=pl.UInt32)}).with_row_index("row")
    held = pl.DataFrame(
        {
            "code": pl.Series(found["row"]).cast(pl.UInt32),
            "type": pl.Series(found["type"], dtype=pl.String),
            "value": pl.Series(found["value"], dtype=pl.String),
            "whole": pl.Series(found["whole"], dtype=pl.Boolean),
        }
    )
    return (
        codes.join(held, on="code", maintain_order="left_right")
        .with_columns(field=pl.lit(HOST), text=pl.lit(""))
        .select(pl.col(name).cast(kind) for name, kind in OBSERVATIONS.items())
    )


def _named(
    items: pa.Array, rows: npt.NDArray[np.uint32], keys: pl.Series, wanted: Collection[str] | None
) -> pl.DataFrame:
    said = {key: name for key in sorted(keys.unique().to_list()) if (name := type_of_name(key))}
    parts = [pl.DataFrame(schema=dict(OBSERVATIONS))]
    texts = pl.Series(items, dtype=pl.String)
    for key, type_name in said.items():
        at = (keys == key).arg_true()
        text = texts.gather(at)
        values = pl.Series(CANONICALISERS[type_name](to_arrow(text)).values, dtype=pl.String)
        named = pl.repeat(type_name, len(at), eager=True) if type_name != "ip" else _version(values)
        part = pl.DataFrame(
            {
                "row": rows[at.to_numpy()],
                "field": keys.gather(at),
                "text": text,
                "type": named,
                "value": values,
                "whole": pl.repeat(True, len(at), eager=True),  # noqa: FBT003 - what is repeated
            },
            schema=dict(OBSERVATIONS),
        )
        parts.append(part.filter(values.is_not_null()))
    found = pl.concat(parts)
    return found if wanted is None else found.filter(pl.col("type").is_in(list(wanted)))


def _version(addresses: pl.Series) -> pl.Series:
    return addresses.str.contains(":", literal=True).replace_strict(
        {True: "ipv6", False: "ipv4"}, return_dtype=pl.String
    )
