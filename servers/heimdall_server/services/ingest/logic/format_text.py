"""A resolved format as text, for marks, snapshots and dead letters; with it, where in an over-long record a source is."""

from __future__ import annotations

import json

from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.services.ingest.model import Skip


def format_to_json(format_: Format, skip: Skip | None = None) -> str:
    """For the journal. `skip`: the source stands in the middle of an over-long record."""
    value: dict[str, object] = {"kind": format_.kind.value, "options": format_.options}
    if skip is not None:
        value["skip"] = [skip.left_bytes, skip.ends]
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def format_from_json(text: str) -> tuple[Format, Skip | None]:
    """Back from the journal."""
    raw = json.loads(text)
    skip = Skip(*raw["skip"]) if "skip" in raw else None
    return Format(FormatKind(raw["kind"]), dict(raw["options"])), skip


def kind_of(text: str) -> str:
    """The kind that `format_to_json` wrote; empty for none."""
    return str(json.loads(text)["kind"]) if text else ""
