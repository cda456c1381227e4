"""What the command makes of files before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from heimdall_client.cli import graph_interchange
from heimdall_client.cli.graph_interchange import Interchange
from tests.support.cli import invoke


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (b'{"type": "bundle", "id": "bundle--1", "objects": [', Interchange.STIX),
        (b'{"objects" : [{"type": "malware"', Interchange.STIX),
        (b'{"Event": {"info": "x"', Interchange.MISP),
        (b'{"response": [{"Event": {"type": "bundle"', Interchange.MISP),
        (b'[{"uuid": "1", "Attribute": []', Interchange.MISP),
    ],
)
def test_a_format_is_guessed_from_the_beginning(begin: bytes, expected: Interchange) -> None:
    assert graph_interchange._guessed(begin) is expected


def test_what_is_neither_must_be_said() -> None:
    with pytest.raises(typer.BadParameter, match="say which"):
        graph_interchange._guessed(b"a,b,c")


@pytest.mark.parametrize(
    ("file", "expected"), [("/a/Enterprise Attack.json", "enterprise-attack"), ("feed/", "feed"), ("x.y.json", "x.y")]
)
def test_a_file_names_its_source(file: str, expected: str) -> None:
    assert graph_interchange._source_of(file) == expected


def test_a_feed_is_what_its_manifest_names_and_any_other_folder_all_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuids = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(4)]
    for uuid in uuids[:3]:
        (tmp_path / f"{uuid}.json").write_text(json.dumps({"Event": {"uuid": uuid}}))
    assert len(graph_interchange._files_of(tmp_path)) == 3
    (tmp_path / "manifest.json").write_text(json.dumps({uuid: {} for uuid in (uuids[0], uuids[2], uuids[3], "../etc")}))
    assert [file.stem for file in graph_interchange._files_of(tmp_path)] == [uuids[0], uuids[2]]

    (together,) = list(graph_interchange._opened(str(tmp_path)))
    with together:
        assert together.peek(10)
        assert [json.loads(line)["Event"]["uuid"] for line in together.read().splitlines() if line] == [
            uuids[0],
            uuids[2],
        ]
    monkeypatch.setattr(graph_interchange, "CALL_BYTES", 10)
    several = list(graph_interchange._opened(str(tmp_path)))
    assert len(several) == 2
    for one in several:
        one.close()


def test_an_export_that_fails_leaves_no_file_and_the_old_one_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")

    def fail() -> None:
        with graph_interchange._written(target) as part:
            part.write(b"half")
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]
    assert target.read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("import", "no-such-file.json"), "no such file"),
        (("import", "-"), "--source"),
        (("import", "x.json", "--tlp", "purple"), "--tlp"),
        (("import", "x.json", "--confidence", "0"), "--confidence"),
        (("export", "nonsense"), "TYPE:VALUE"),
        (("export", "domain:evil.example", "--reveal-personal"), "--reason"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_sent(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    config = tmp_path / "client.toml"
    config.write_text('address = "127.0.0.1:1"\n')
    outcome = invoke("graph", *arguments, config=config)
    assert outcome.code == 2
    assert said in outcome.err
