"""The eight systems of LogHub, against what their own tables say."""

from __future__ import annotations

import csv
import datetime as dt
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from heimdall_server.decode import text
from heimdall_server.decode.text_sniff import choose_pattern
from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.domain.records import SEVERITY_NAMES
from tests.support.decode_streams import OBSERVED_NS, context, feed, shown

Row = Mapping[str, str]
SHARE_MIN = 0.99
FOLDER = os.environ.get("HEIMDALL_TEST_DATA", "")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER, reason="HEIMDALL_TEST_DATA doesn't name the folder of real logs"),
]


def strptime(form: str, *names: str) -> Callable[[Row], dt.datetime]:
    def read(row: Row) -> dt.datetime:
        stamp = " ".join(row[name] for name in names)
        return dt.datetime.strptime(stamp, form).replace(tzinfo=dt.UTC)

    return read


def yearless(form: str, *names: str) -> Callable[[Row], dt.datetime]:
    observed = dt.datetime.fromtimestamp(OBSERVED_NS / 1e9, dt.UTC)

    def read(row: Row) -> dt.datetime:
        stamp = " ".join(row[name] for name in names)
        this_year = dt.datetime.strptime(f"{observed.year} {stamp}", f"%Y {form}").replace(tzinfo=dt.UTC)
        return this_year if this_year <= observed else this_year.replace(year=observed.year - 1)

    return read


def bgl_time(row: Row) -> dt.datetime:
    micros = int(row["Time"].rpartition(".")[2])
    return dt.datetime.fromtimestamp(int(row["Timestamp"]), dt.UTC) + dt.timedelta(microseconds=micros)


# System → pattern, time, level column, host column, body column.
SYSTEMS: dict[str, tuple[str, Callable[[Row], dt.datetime], str, str]] = {
    "Android": ("logcat", yearless("%m-%d %H:%M:%S.%f", "Date", "Time"), "Level", ""),
    "Apache": ("apache_error", strptime("%a %b %d %H:%M:%S %Y", "Time"), "Level", ""),
    "BGL": ("bgl", bgl_time, "Level", "Node"),
    "HDFS": ("hdfs", strptime("%y%m%d %H%M%S", "Date", "Time"), "Level", ""),
    # The tables of these two call the host by another column's name.
    "Linux": ("syslog", yearless("%b %d %H:%M:%S", "Month", "Date", "Time"), "", "Level"),
    "OpenSSH": ("syslog", yearless("%b %d %H:%M:%S", "Date", "Day", "Time"), "", "Component"),
    "Spark": ("spark", strptime("%y/%m/%d %H:%M:%S", "Date", "Time"), "Level", ""),
    "Zookeeper": ("zookeeper", strptime("%Y-%m-%d %H:%M:%S,%f", "Date", "Time"), "Level", ""),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_time_severity_host_and_body_are_those_of_the_table(system: str) -> None:
    pattern, time_of, level, host = SYSTEMS[system]
    data = (Path(FOLDER) / "loghub" / f"{system}_2k.log").read_bytes()
    with (Path(FOLDER) / "loghub" / f"{system}_2k.log_structured.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert choose_pattern(data[: 64 * 1024], final=False)[0] == pattern
    decoded = text.decode(data, Format(FormatKind.TEXT, {"pattern": pattern}), context(), at_start=True)
    decoded.batch.validate(full=True)
    assert decoded.batch.num_rows == len(rows)
    assert share([time_of(row) for row in rows], shown(decoded, "time")) >= SHARE_MIN
    if level:
        wanted = [SEVERITY_NAMES[row[level].lower()] for row in rows]
        assert share(wanted, shown(decoded, "severity")) >= SHARE_MIN
    if host:
        assert share([row[host] for row in rows], shown(decoded, "host")) >= SHARE_MIN
    assert (
        share([row["Content"].strip() for row in rows], [body.strip() for body in shown(decoded, "body")]) >= SHARE_MIN
    )


@pytest.mark.parametrize("system", SYSTEMS)
def test_cut_anywhere_a_log_gives_the_same_records(system: str) -> None:
    data = (Path(FOLDER) / "loghub" / f"{system}_2k.log").read_bytes()
    format_ = Format(FormatKind.TEXT, {"pattern": SYSTEMS[system][0]})
    whole = feed(text, format_, data, [])
    assert feed(text, format_, data, range(0, len(data), 7919)).batch.equals(whole.batch)


def share(wanted: Sequence[object], found: Sequence[object]) -> float:
    return sum(a == b for a, b in zip(wanted, found, strict=True)) / len(wanted)
