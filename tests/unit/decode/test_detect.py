from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from heimdall_server.decode import detect
from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.domain.errors import FormatError

LOG4J = b"2024-03-01 10:00:00,000 ERROR c.e.App - it broke\n\tat x.y(Z.java:1)\n"
CSV = b"time,level,msg\n2024-03-01T10:00:00Z,info,hello\n2024-03-01T10:00:01Z,warn,hello again\n"


def resolve(
    data: bytes, hint: FormatKind | None = None, *, name: str = "", final: bool = True, **options: str
) -> Format | None:
    return detect.resolve(hint, options, data, file_name=name, final=final)


def arrow_bytes(new: Any) -> bytes:
    table = pa.table({"a": [1, 2]})
    sink = pa.BufferOutputStream()
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("data", "kind", "options"),
    [
        (b'{"a":1}\n{"a":2}\n', FormatKind.NDJSON, {}),
        (b'{"a":1}', FormatKind.NDJSON, {}),
        (b'\xef\xbb\xbf{"a":1}\n{"a":2}\n', FormatKind.NDJSON, {}),
        (b'{"a":1}\nbroken\n', FormatKind.NDJSON, {}),
        (b'[{"a":1},\n{"a":2}]', FormatKind.JSON, {"depth": "1"}),
        (b'\n [\n  {"a": 1}\n]\n', FormatKind.JSON, {"depth": "1"}),
        (b"[]", FormatKind.JSON, {}),
        (b'{"records": [{"a":1},{"a":2}]}', FormatKind.JSON, {"depth": "2", "wrapper": "records"}),
        (b'{\n  "a": 1\n}\n', FormatKind.JSON, {"depth": "0"}),
        (CSV, FormatKind.CSV, {"delimiter": ",", "header": '["time", "level", "msg"]', "header_row": "true"}),
        (b"a;b;c\n1;2,5;x\n3;4,5;y\n", FormatKind.CSV, {"delimiter": ";"}),
        (b"a\tb\n1\t2\n", FormatKind.CSV, {"delimiter": "\t"}),
        (b"a|b|c\r\n1|2|3\r\n", FormatKind.CSV, {"delimiter": "|"}),
        (b'name,note\n"x","line 1\nline 2, and more"\n', FormatKind.CSV, {"delimiter": ","}),
        (b"<34>1 2003-10-11T22:14:15.003Z h su - ID47 - x\n", FormatKind.SYSLOG, {"framing": "newline"}),
        (b"<34>Oct 11 22:14:15 h su: x\n", FormatKind.SYSLOG, {"framing": "newline"}),
        (b"27 <34>Oct 11 22:14:15 h su: x", FormatKind.SYSLOG, {"framing": "octet"}),
        (LOG4J, FormatKind.TEXT, {"pattern": "log4j"}),
        (b"[Sun Dec 04 04:47:44 2005] [notice] ok\n", FormatKind.TEXT, {"pattern": "apache_error"}),
        (b"[2024-03-01 10:00:00] [INFO] x\n", FormatKind.TEXT, {"pattern": "iso_level"}),
        (b"Jun 14 15:16:01 h a[1]: x, y, z\n", FormatKind.TEXT, {"pattern": "syslog"}),
        (b"level=info msg=x\nlevel=info msg=y\n", FormatKind.TEXT, {"pattern": "logfmt"}),
        (b"Dear all,\nhow are you, and yours?\nBest, me\n", FormatKind.TEXT, {"pattern": "plain"}),
        (b"{not json\n", FormatKind.TEXT, {"pattern": "plain"}),
        (b"", FormatKind.TEXT, {"pattern": "plain"}),
        (b"x", FormatKind.TEXT, {"pattern": "plain"}),
    ],
)  # fmt: skip
def test_kind_and_options_are_told_from_the_first_bytes(
    data: bytes, kind: FormatKind, options: Mapping[str, str]
) -> None:
    resolved = resolve(data)
    assert resolved is not None
    assert resolved.kind is kind
    assert {name: resolved.options.get(name) for name in options} == options


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_both_kinds_of_arrow_are_told(new: Any) -> None:
    resolved = resolve(arrow_bytes(new), final=False)
    assert resolved is not None
    assert resolved.kind is FormatKind.ARROW


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"a":1', b'{"a":1}', b"[", b"<", b"<3", b"12", b"plain line\n", b"a,b", b"2024-03-01 10:00"]
)
def test_too_few_bytes_wait_for_more(data: bytes) -> None:
    assert resolve(data, final=False) is None


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"a":1}\n{', FormatKind.NDJSON),
        (b'[{"a"', FormatKind.JSON),
        (LOG4J, FormatKind.TEXT),
        (CSV, FormatKind.CSV),
        (b"plain line\n" * 20, FormatKind.TEXT),
    ],
)
def test_enough_bytes_do_not_wait(data: bytes, kind: FormatKind) -> None:
    resolved = resolve(data, final=False) or resolve(data + b"x" * detect.FIRST_BYTES_MAX, final=False)
    assert resolved is not None
    assert resolved.kind is kind


@pytest.mark.parametrize("start", [b'{"a":"', b"[", b"x", b"1", b"<", b"a,b,c", b" ", b'"', b"\n"])
def test_a_look_at_the_limit_always_decides(start: bytes) -> None:
    assert resolve(start + b"y" * detect.FIRST_BYTES_MAX, final=False) is not None


@pytest.mark.parametrize(
    ("name", "kind"),
    [("x.csv", FormatKind.CSV), ("x.tsv.gz", FormatKind.CSV), ("x.log", FormatKind.TEXT), ("", FormatKind.TEXT)],
)
def test_files_ending_decides_what_the_bytes_leave_open(name: str, kind: FormatKind) -> None:
    resolved = resolve(b"1\t2\n3\t4\n", name=name)
    assert resolved is not None
    assert resolved.kind is kind


def test_ending_is_not_believed_against_the_bytes() -> None:
    resolved = resolve(b'{"a":1}\n{"a":2}\n', name="x.csv")
    assert resolved is not None
    assert resolved.kind is FormatKind.NDJSON


@pytest.mark.parametrize(
    ("data", "hint"),
    [(CSV, FormatKind.CSV), (LOG4J, FormatKind.TEXT), (b"<34>x", FormatKind.SYSLOG), (b'[{"a":1}]', FormatKind.JSON)],
)
def test_resolved_options_resolve_to_themselves_without_bytes(data: bytes, hint: FormatKind) -> None:
    first = resolve(data, hint)
    assert first is not None
    assert resolve(b"", hint, final=False, **first.options) == first


def test_given_header_of_a_file_without_one_is_kept() -> None:
    names = json.dumps(["a", "b"])
    without = resolve(b"1,2\n3,4\n", FormatKind.CSV, header=names)
    with_it = resolve(b"a,b\n3,4\n", FormatKind.CSV, header=names)
    assert without is not None
    assert with_it is not None
    assert (without.options["header_row"], with_it.options["header_row"]) == ("false", "true")


def test_columns_without_names_are_numbered_and_repeats_told_apart() -> None:
    resolved = resolve(b"a,,a,a_2\n1,2,3,4\n", FormatKind.CSV)
    assert resolved is not None
    assert json.loads(resolved.options["header"]) == ["a", "column_2", "a_2", "a_2_2"]
    numbered = resolve(b"1,2\n", FormatKind.CSV, header_row="false")
    assert numbered is not None
    assert json.loads(numbered.options["header"]) == ["column_1", "column_2"]


def test_header_longer_than_the_look_is_waited_for() -> None:
    header = ",".join(f"a_column_named_{index}" for index in range(9000)).encode()
    assert resolve(header, FormatKind.CSV, final=False) is None
    resolved = resolve(header + b"\n", FormatKind.CSV, final=False)
    assert resolved is not None
    assert len(json.loads(resolved.options["header"])) == 9000


def test_custom_regex_needs_no_pattern_name() -> None:
    resolved = resolve(b"", FormatKind.TEXT, regex="(?P<a>x)")
    assert resolved is not None
    assert resolved.options == {"regex": "(?P<a>x)", "pattern": "custom"}
    with pytest.raises(FormatError, match="doesn't compile"):
        resolve(b"", FormatKind.TEXT, regex="(")


@pytest.mark.parametrize("data", ["h\xe4llo\n".encode("utf-16"), bytes(4000), b"\x7fELF" + bytes(500)])
def test_bytes_that_are_no_text_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        resolve(data)


def test_random_bytes_are_no_log_unless_somebody_says_so() -> None:
    noise = random.Random(7).randbytes(20_000)
    with pytest.raises(FormatError, match="binary"):
        detect.resolve(None, {}, noise, final=True)
    assert detect.resolve(FormatKind.TEXT, {"pattern": "plain"}, noise, final=True) is not None


def test_colours_of_a_terminal_are_text() -> None:
    line = b"\x1b[32mINFO\x1b[0m \x1b[1mstarted\x1b[0m\n"
    assert detect.resolve(None, {}, line * 100, final=True) is not None
