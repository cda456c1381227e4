"""Newer lists come from a folder, an archive or an address, when somebody asks for them."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import ssl
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from heimdall_server.domain.errors import InvalidArgumentError, StoreError
from heimdall_server.domain.warninglists import Match
from heimdall_server.projections.graph.config import WarninglistsConfig
from heimdall_server.projections.graph.warninglists import files
from heimdall_server.projections.graph.warninglists.files import WarninglistFolder, kept, load, packaged
from heimdall_server.projections.graph.warninglists.misp import from_misp
from heimdall_server.projections.graph.warninglists.refresh import refresh
from heimdall_server.projections.graph.warninglists.sources import SourceLimits
from heimdall_server.wiring.warninglists_command import app
from tests.support.pki import Pki


def misp(type_: str, entries: list[str], *attributes: str, version: object = 20261101) -> dict[str, Any]:
    return {
        "name": "List of something",
        "description": "what it is",
        "version": version,
        "type": type_,
        "matching_attributes": list(attributes),
        "list": entries,
    }


CLOUDFLARE = misp("cidr", ["173.245.48.0/20", "2606:4700::/32", "nonsense"], "ip-src", "ip-dst")
LISTS: Mapping[str, Any] = {
    "cloudflare": CLOUDFLARE,
    "tranco10k": misp("hostname", ["Google.COM", "example.org"], "hostname", "domain", "url"),
    "vpn": misp("cidr", ["192.0.2.1"], "ip-src"),
    "mails": misp("regex", [".*@example"], "email-src"),
    "broken": {"list": 1},
}


def in_folder(folder: Path, lists: Mapping[str, Any] = LISTS) -> Path:
    for name, value in lists.items():
        place = folder / "lists" / name
        place.mkdir(parents=True)
        (place / "list.json").write_text(json.dumps(value))
    (folder / "lists" / "README.md").write_text("no list")
    return folder


def as_zip(folder: Path) -> Path:
    path = folder / "lists.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.md", "no list")
        for name, value in LISTS.items():
            archive.writestr(f"misp-warninglists-main/lists/{name}/list.json", json.dumps(value))
    return path


def as_tar(folder: Path) -> Path:
    path = folder / "lists.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, value in LISTS.items():
            content = json.dumps(value).encode()
            member = tarfile.TarInfo(f"./lists/{name}/list.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("lists/passwd/list.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


@pytest.mark.parametrize("make", [in_folder, as_zip, as_tar])
def test_lists_that_we_have_are_taken_from_any_source_and_keep_what_they_mean(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    folder = tmp_path / "kept"
    done = {one.name: one for one in refresh(str(make(tmp_path)), folder)}
    assert {name: one.outcome for name, one in done.items()} == {"cloudflare": "updated", "tranco10k": "updated"}
    assert done["cloudflare"].left_count == 1
    found, problems = kept(folder)
    assert not problems
    by_name = {one.name: one for one in found}
    assert by_name["cloudflare"].entries == ("173.245.48.0/20", "2606:4700::/32")
    assert by_name["cloudflare"].confidence == 30
    assert by_name["tranco10k"].match is Match.VALUE  # MISP means names below them, too; we don't
    assert by_name["tranco10k"].entries == ("example.org", "google.com")
    again = refresh(str(tmp_path / "lists.zip" if make is as_zip else tmp_path), folder) if make is not as_tar else []
    assert all(one.outcome == "unchanged" for one in again)


def test_further_lists_are_taken_where_they_are_asked_for_and_whats_no_list_is_told(tmp_path: Path) -> None:
    source, folder = str(in_folder(tmp_path)), tmp_path / "kept"
    with pytest.raises(InvalidArgumentError, match="no list nowhere"):
        refresh(source, folder, names=["nowhere"])
    assert {one.name: one.outcome for one in refresh(source, folder, names=["vpn"])}["vpn"] == "new"
    done = {one.name: one.outcome for one in refresh(source, folder, every=True)}
    assert done["vpn"] == "unchanged"
    assert "aren't matched here" in done["mails"]
    assert done["broken"] == "not taken: it has no list of entries"
    assert {one.name for one in kept(folder)[0]} == {"cloudflare", "tranco10k", "vpn"}


def test_a_running_server_takes_up_what_changed_and_goes_on_with_what_it_has_where_a_file_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOOK_AGAIN_S", 0.0)
    folder = tmp_path / "kept"
    lists = WarninglistFolder(folder, WarninglistsConfig(off=("fastly",), confidence={"vpn": 3, "nothing": 5}))
    assert lists.loaded().problems == [
        "graph.warninglists: there is no list 'nothing'",
        "graph.warninglists: there is no list 'vpn'",
    ]
    assert "fastly" not in {one.name for one in lists.loaded().lists.lists}
    before = lists.loaded().lists
    assert lists.loaded().lists is before
    refresh(str(in_folder(tmp_path)), folder, names=["vpn"])
    after = lists.loaded().lists
    assert after.names("ipv4", "192.0.2.1") == ["documentation-addresses", "vpn"]
    assert after.confidences("ipv4", pa.array(["192.0.2.1"])).tolist() == [3]
    (folder / "cloudflare.json").write_text("{")
    (folder / "vpn.json").write_text((folder / "vpn.json").read_text().replace("192.0.2.1", "no address"))
    loaded = lists.loaded()
    assert [problem.partition(":")[0] for problem in loaded.problems[:2]] == ["cloudflare.json", "vpn.json"]
    assert loaded.lists.names("ipv4", "104.16.0.1") == ["cloudflare"]  # that of the package
    assert not load(folder, WarninglistsConfig(enabled=False)).lists.lists


def test_what_goes_beyond_a_bound_is_refused(tmp_path: Path) -> None:
    source, folder = str(as_zip(tmp_path)), tmp_path / "kept"
    for limits in (
        SourceLimits(file_bytes_max=100),
        SourceLimits(all_bytes_max=100),
        SourceLimits(file_count_max=2),
    ):
        with pytest.raises(InvalidArgumentError, match=r"larger|more than"):
            refresh(source, folder, every=True, limits=limits)
    with pytest.raises(InvalidArgumentError, match="more than"):
        refresh(str(as_tar(tmp_path)), folder, limits=SourceLimits(tar_bytes_max=300))


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no archive")
    for source, sentence in (
        ("empty", "there is no NAME/list.json"),
        ("text", "can't be read as an archive"),
        ("nowhere", "neither a folder nor a file"),
    ):
        with pytest.raises(InvalidArgumentError, match=sentence):
            refresh(str(tmp_path / source), tmp_path / "kept")
    with pytest.raises(InvalidArgumentError, match="https://"):
        refresh("http://127.0.0.1/lists.zip", tmp_path / "kept")
    with pytest.raises(StoreError):
        refresh("https://127.0.0.1:1/lists.zip", tmp_path / "kept", limits=SourceLimits(deadline_s=5))


class Answers(http.server.BaseHTTPRequestHandler):
    """Gives what the path says."""

    content = b""

    def do_GET(self) -> None:
        if self.path == "/gone":
            self.send_error(404)
            return
        if self.path == "/plain":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path == "/slow":
                time.sleep(1.5)
            self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of an https server whose authority is trusted."""
    certificate = pki.write("lists", pki.server_leaf())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name(certificate.stem + "-key.pem"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    Answers.content = as_zip(tmp_path).read_bytes()
    monkeypatch.setenv("SSL_CERT_FILE", str(pki.ca_file))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://localhost:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_lists_come_from_an_address_within_time_and_size(address: str, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    assert [one.outcome for one in refresh(f"{address}/lists.zip", folder)] == ["updated", "updated"]
    with pytest.raises(InvalidArgumentError, match="larger than 100 bytes"):
        refresh(f"{address}/lists.zip", folder, limits=SourceLimits(download_bytes_max=100))
    with pytest.raises(StoreError):
        refresh(f"{address}/slow", folder, limits=SourceLimits(deadline_s=0.3))
    for path in ("gone", "plain"):
        with pytest.raises(StoreError):
            refresh(f"{address}/{path}", folder)


def test_the_command_takes_lists_in_and_says_what_became_of_each(tmp_path: Path) -> None:
    source, data = str(in_folder(tmp_path)), str(tmp_path / "data")
    runner = CliRunner()
    done = runner.invoke(app, ["refresh", source, "--list", "vpn", "--data-dir", data])
    assert done.exit_code == 0, done.output
    assert "cloudflare: updated, 2 entries, version 20261101, 1 not understood" in done.output
    assert "vpn: new, 1 entries, version 20261101" in done.output
    told = json.loads(runner.invoke(app, ["refresh", source, "--data-dir", data, "-o", "json"]).output)
    assert {one["outcome"] for one in told["lists"]} == {"unchanged"}
    checked = runner.invoke(app, ["check", "--data-dir", data])
    assert checked.exit_code == 0
    assert "vpn: 1 entries" in checked.output
    (tmp_path / "data" / "warninglists" / "vpn.json").write_text("{}")
    checked = runner.invoke(app, ["check", "--data-dir", data])
    assert checked.exit_code == 1
    assert "problem: vpn.json" in checked.output
    refused = runner.invoke(app, ["refresh", str(tmp_path / "nowhere"), "--data-dir", data])
    assert refused.exit_code == 1
    assert "neither a folder nor a file" in refused.output


def test_misps_attributes_say_what_a_list_is_about() -> None:
    digests = ["d41d8cd98f00b204e9800998ecf8427e", "DA39A3EE5E6B4B0D3255BFEF95601890AFD80709", "short"]
    one, left = from_misp("hashes", misp("string", digests, "md5", "sha1", "sha256", "filename|md5", version="3"))
    assert (one.types, left, one.version, one.confidence) == (("md5", "sha1"), 1, "3", 30)
    assert one.entries == (digests[0], digests[1].lower())
    hosts, _ = from_misp("hosts", misp("hostname", [".Example.ORG", "b.test"], "hostname", "url"))
    assert (hosts.match, hosts.types, hosts.entries) == (Match.DOMAIN, ("domain",), ("b.test", "example.org"))
    no_lists: tuple[object, ...] = (None, [], {}, misp("string", ["a@b.c"], "email-src"), misp("substring", ["x"]))
    for bad in no_lists:
        with pytest.raises(ValueError, match=r"list|entries"):
            from_misp("bad", bad)
    assert {one.name for one in packaged()} >= {"cloudflare", "tranco10k"}
