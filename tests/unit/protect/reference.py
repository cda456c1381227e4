"""The protect stage as it is meant: value by value with `re`, no gates, no columns."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from heimdall_server.domain.records import RECORD_SCHEMA, default_column
from heimdall_server.protect.catalogue import RULES
from heimdall_server.protect.checks import plausible_card
from heimdall_server.protect.names import class_of_name
from heimdall_server.protect.policy import PrivacyPolicy

Row = dict[str, Any]
MAPS = ("attributes", "attributes_number", "resource", "resource_number")


def batch_of(rows: list[Row]) -> pa.RecordBatch:
    """Records from rows that name only what they carry."""
    columns = []
    for field in RECORD_SCHEMA:
        if field.name in ("time", "observed_time"):
            columns.append(pa.array([0] * len(rows), field.type))
        elif rows and any(field.name in row for row in rows):
            default = default_column(field.name, 1)[0].as_py()
            values = [row.get(field.name, default) for row in rows]
            if pa.types.is_map(field.type):
                values = [list(value.items()) if isinstance(value, dict) else value for value in values]
            columns.append(pa.array(values, field.type))
        else:
            columns.append(default_column(field.name, len(rows)))
    return pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    """Records as plain values; maps as sorted pairs."""
    rows: list[Row] = batch.to_pylist()
    return [{key: sorted(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows]


def protect_row(row: Row, policy: PrivacyPolicy) -> Row:
    """What the policy makes of one record."""
    result = dict(row, policy_version=policy.version)
    source = row["source"]

    def action(data_class: str, field: str) -> str:
        return policy.action(data_class, source, field)

    def rewrite(text: str, field: str) -> str | None:
        for rule in RULES:
            chosen = action(rule.data_class, field)
            if chosen == "keep":
                continue
            masked = rule.substitute_text(text, f"[{rule.data_class}]")
            if chosen == "drop" and masked != text:
                return None
            text = masked
        return text

    for field in ("body", "overflow", "service", "host", "severity_text", "event_name", "scope_name"):
        result[field] = rewrite(row[field], field) or ""
    for scope in ("attributes", "resource"):
        texts: list[tuple[str, str]] = []
        numbers: list[tuple[str, float]] = []
        for key, value in row[scope]:
            field = f"{scope}.{key}"
            data_class = class_of_name(key)
            chosen = action(data_class, field) if data_class and value else "keep"
            if chosen == "drop":
                continue
            written = rewrite(f"[{data_class}]" if chosen == "mask" else value, field)
            if written is not None:
                texts.append((key, written))
        for key, number in row[f"{scope}_number"]:
            field = f"{scope}.{key}"
            data_class = class_of_name(key)
            chosen = action(data_class, field) if data_class else "keep"
            if chosen == "keep" and 1e12 <= number < 2**53 and number.is_integer() and plausible_card(str(int(number))):
                data_class, chosen = "card", action("card", field)
            if chosen == "keep":
                numbers.append((key, number))
            elif chosen == "mask":
                texts.append((key, f"[{data_class}]"))
        result[scope], result[f"{scope}_number"] = sorted(texts), sorted(numbers)
    return result
