from __future__ import annotations

import csv as standard_csv
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.decode import csv, csv_rows
from heimdall_server.domain.decoding import Decoded, Format, FormatKind
from heimdall_server.domain.errors import FormatError, RecordTooLargeError
from heimdall_server.domain.records import RECORD_BYTES_MAX
from tests.support.decode_streams import attributes, context, feed, shown


def csv_format(*header: str, **options: str) -> Format:
    return Format(
        FormatKind.CSV, {"delimiter": ",", "quote": '"', "header": json.dumps(header), "header_row": "true", **options}
    )


ABC = csv_format("a", "b", "c")


def decode(data: bytes, format_: Format = ABC, **values: Any) -> Decoded:
    decoded = csv.decode(data, format_, context(**values), at_start=True)
    decoded.batch.validate(full=True)
    return decoded


def test_header_names_the_fields_and_core_names_go_to_their_columns() -> None:
    data = b"time,level,msg,service,host,user\n2024-03-01T10:00:00Z,error,it broke,api,web-1,ann\n"
    decoded = decode(data, csv_format("time", "level", "msg", "service", "host", "user"))
    assert shown(decoded, "severity", "body", "service", "host") == [(17, "it broke", "api", "web-1")]
    assert str(shown(decoded, "time")[0]) == "2024-03-01 10:00:00+00:00"
    assert attributes(decoded) == [{"user": "ann"}]


def test_cells_are_typed_one_by_one() -> None:
    cells = [
        "12",
        "-1.5e3",
        "true",
        "FALSE",
        "00123",
        "+4917012345",
        "9007199254740993",
        "9007199254740992",
        "1.",
        "nan",
    ]
    decoded = decode(("a\n" + "\n".join(cells) + "\n").encode(), csv_format("a"))
    expected = [12.0, -1500.0, True, False, "00123", "+4917012345", "9007199254740993", 9007199254740992.0, "1.", "nan"]
    assert [row["a"] for row in attributes(decoded)] == expected


def test_quoted_cells_hold_delimiters_newlines_and_quotes() -> None:
    decoded = decode(b'a,b,c\r\n"x, y","line 1\r\nline 2","say ""hi"""\r\n1,2,3\r\n')
    assert attributes(decoded) == [{"a": "x, y", "b": "line 1\r\nline 2", "c": 'say "hi"'}, {"a": 1, "b": 2, "c": 3}]


def test_blank_cells_are_absent_and_blank_lines_are_no_records() -> None:
    decoded = decode(b"a,b,c\n\n1,,\n\r\n,,2\n", dump="d", first_record_number=1)
    assert attributes(decoded) == [{"a": 1.0}, {"c": 2.0}]
    assert shown(decoded, "record_number") == [1, 2]


def test_byte_order_mark_is_no_part_of_the_first_name() -> None:
    assert attributes(decode(b"\xef\xbb\xbfa,b,c\n1,2,3\n")) == [{"a": 1, "b": 2, "c": 3}]


def test_row_with_too_few_cells_lacks_the_last_fields() -> None:
    assert attributes(decode(b"a,b,c\n1,2,3\n4\n5,6\n7,8,9\n")) == [
        {"a": 1, "b": 2, "c": 3},
        {"a": 4},
        {"a": 5, "b": 6},
        {"a": 7, "b": 8, "c": 9},
    ]


def test_row_with_too_many_cells_is_an_error_and_its_neighbours_are_kept() -> None:
    decoded = decode(b"a,b,c\n1,2,3\n4,5,6,7\n8,9,10\n", dump="d", first_record_number=1)
    assert [(error.row, error.offset, error.raw) for error in decoded.errors] == [(1, 12, b"4,5,6,7")]
    assert decoded.errors[0].reason == "the row has 4 cells, the header 3"
    assert shown(decoded, "record_number") == [1, 3]


def test_blank_cells_too_many_are_forgiven() -> None:
    assert attributes(decode(b"a,b,c\n1,2,3,,\n")) == [{"a": 1, "b": 2, "c": 3}]


def test_quote_that_is_never_closed_costs_its_own_line_only() -> None:
    decoded = decode(b'a,b,c\n1,2,3\n4,"5,6\n7,8,9\n')
    assert attributes(decoded) == [{"a": 1, "b": 2, "c": 3}, {"a": 7, "b": 8, "c": 9}]
    assert [(error.row, error.reason) for error in decoded.errors] == [(1, csv_rows.UNCLOSED_REASON)]


def test_quote_inside_a_bare_cell_is_an_ordinary_character() -> None:
    assert attributes(decode(b'a,b,c\n5" pipe,2,3\n6,"x",7"\n')) == [
        {"a": '5" pipe', "b": 2, "c": 3},
        {"a": 6, "b": "x", "c": '7"'},
    ]


def test_row_that_is_not_utf8_is_an_error() -> None:
    decoded = decode(b"a,b,c\n1,2,3\n4,\xff,6\n7,8,9\n")
    assert [(error.row, error.raw) for error in decoded.errors] == [(1, b"4,\xff,6")]
    assert decoded.batch.num_rows == 2


def test_nul_bytes_are_kept() -> None:
    assert attributes(decode(b"a,b,c\nx\0y,2,3\n"))[0]["a"] == "x\0y"


def test_ten_thousand_columns_keep_every_cell() -> None:
    names = [f"n{index}" for index in range(csv.COLUMN_COUNT_MAX)]
    data = ",".join(names) + "\n" + ",".join(str(index) for index in range(len(names))) + "\n"
    decoded = decode(data.encode(), csv_format(*names))
    kept = attributes(decoded)[0]
    overflow = json.loads(shown(decoded, "overflow")[0])
    assert len(kept) == 128
    assert {**kept, **overflow} == {name: float(index) for index, name in enumerate(names)}


def test_wider_header_is_refused() -> None:
    with pytest.raises(FormatError, match="10001 columns"):
        decode(b"x\n", csv_format(*[str(index) for index in range(csv.COLUMN_COUNT_MAX + 1)]))


def test_huge_row_is_an_error_and_its_neighbours_are_kept() -> None:
    decoded = decode(b"a,b,c\n1,2,3\n" + b"x" * (2 * RECORD_BYTES_MAX) + b"\n4,5,6\n")
    assert attributes(decoded) == [{"a": 1, "b": 2, "c": 3}, {"a": 4, "b": 5, "c": 6}]
    assert [(error.row, len(error.raw)) for error in decoded.errors] == [(1, RECORD_BYTES_MAX)]


def test_unfinished_huge_row_is_not_held_for_ever() -> None:
    with pytest.raises(RecordTooLargeError):
        csv.complete_length(b"x" * (RECORD_BYTES_MAX + 1), ABC, at_start=False, final=False)


def test_open_quote_is_held_only_up_to_the_limit() -> None:
    head = b'1,"open\n'
    assert csv.complete_length(head + b"x\n" * 100, ABC, at_start=False, final=False) == 0
    held = head + b"2,3,4\n" * (RECORD_BYTES_MAX // 6)
    assert csv.complete_length(held, ABC, at_start=False, final=False) == len(held)
    decoded = csv.decode(held, ABC, context(), at_start=False)
    assert [error.row for error in decoded.errors] == [0]
    assert decoded.batch.num_rows == RECORD_BYTES_MAX // 6


def test_decoding_goes_on_in_the_middle_without_the_header() -> None:
    decoded = csv.decode(b"1,2,3\n", ABC, context(), at_start=False)
    assert attributes(decoded) == [{"a": 1, "b": 2, "c": 3}]


def test_format_without_quoting_takes_quotes_as_they_are() -> None:
    tsv = csv_format("a", "b", delimiter="\t", quote="")
    assert attributes(decode(b'a\tb\n"x\ty"\n', tsv)) == [{"a": '"x', "b": 'y"'}]


@pytest.mark.parametrize(
    "options",
    [{"delimiter": ""}, {"delimiter": "ab"}, {"delimiter": '"'}, {"quote": ",,"}, {"header": "no"}, {"header": "[]"}, {"header": '["a","a"]'}],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        csv.complete_length(b"", csv_format("a", **options), at_start=True, final=True)


MESSY = st.lists(st.sampled_from(['"', '""', ",", "\n", "\r\n", "a", "1", " ", "é", "true", '","', '"\n']), max_size=60)


@settings(max_examples=200, deadline=None)
@given(MESSY, st.lists(st.integers(0, 120), max_size=4))
def test_any_cut_gives_the_same_records_and_errors(pieces: list[str], cuts: list[int]) -> None:
    data = "".join(["a,b,c\n", *pieces]).encode()
    whole = feed(csv, ABC, data, [])
    cut = feed(csv, ABC, data, cuts)
    assert cut.batch.equals(whole.batch)
    assert cut.errors == whole.errors


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.text('ab,"\n é;1', max_size=6), min_size=3, max_size=3), max_size=8))
def test_what_a_writer_quotes_is_read_back(rows: list[list[str]]) -> None:
    kept = [row for row in rows if any(row)]
    out = io.StringIO()
    standard_csv.writer(out, lineterminator="\n", quoting=standard_csv.QUOTE_ALL).writerows([["a", "b", "c"], *kept])
    read = [[_written(row.get(name)) for name in "abc"] for row in attributes(decode(out.getvalue().encode()))]
    assert read == [[_written_cell(cell) for cell in row] for row in kept]


def _written(value: str | float | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:g}"


def _written_cell(cell: str) -> str:
    return f"{float(cell):g}" if cell.isdecimal() and not cell.startswith("0") else cell


@settings(max_examples=200, deadline=None)
@given(MESSY)
def test_reader_and_row_finder_agree(pieces: list[str]) -> None:
    text = "".join(pieces)
    rows = csv_rows.find_rows(text.encode(), ",", '"', final=True)
    assert rows.length == len(text.encode())
    decoded = csv.decode(text.encode(), ABC, context(), at_start=False)
    whole = range(len(rows.bounds) - 1)
    blank = sum(not text.encode()[int(rows.bounds[row]) : int(rows.bounds[row + 1])].strip(b"\r\n") for row in whole)
    assert decoded.record_count == len(whole) - blank
