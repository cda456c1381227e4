"""`heimdall graph import, export`: facts of other programs, as STIX 2.1 or as MISP has them."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import typer

from heimdall_client.cli.console import note, plural, size, warn
from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.graph import NAMES, Ceiling, check_vertex, parse_tlp
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from heimdall.graph.v1 import interchange_service_pb2 as pb
    from heimdall_client import Client

GUESS_BYTES: Final = 64 * 1024
CALL_BYTES: Final = 128 * 1024 * 1024
"""Of the files of a folder that are imported together."""
REFUSED_SHOWN: Final = 10
_STIX: Final = re.compile(rb'"type"\s*:\s*"bundle"|"objects"\s*:\s*\[')
_MISP: Final = re.compile(rb'"Event"\s*:|"Attribute"\s*:|"Orgc"\s*:')


class Interchange(StrEnum):
    """Formats of other programs."""

    STIX = "stix"
    MISP = "misp"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "import",
        epilog=examples(
            "heimdall graph import enterprise-attack.json --source mitre-attack --tlp clear",
            "heimdall graph import misp-feed/ --source circl --dry-run      # a folder with a manifest.json",
            "curl -s https://feeds.example/today.json | heimdall graph import - --source example-feed",
            more="Personal values are treated by the privacy policy before anything is kept. The same import again changes nothing. "
            "Needs the permission graph.import, and is audited. Exit code 3 if something was refused.",
        ),
    )(connected(import_))
    app.command(
        "export",
        epilog=examples(
            "heimdall graph export domain:evil.example --depth 2 --output evil.json",
            "heimdall graph export intrusion-set:APT28 --tlp green > apt28.json",
            more=f"{NAMES} Personal entities are left out, unless --reveal-personal asks for them, which needs privacy.reveal. "
            "Needs the permission graph.export, and is audited.",
        ),
    )(connected(export))


def import_(
    link: Link,
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A file, a folder of files, or - for standard input.", show_default=False),
    ],
    *,
    format: Annotated[  # noqa: A002 - the option's name
        Interchange | None,
        typer.Option("--format", help="Guessed from the beginning where it isn't said.", show_default=False),
    ] = None,
    source: Annotated[
        str, typer.Option("--source", metavar="NAME", help="Who says it; the file's name where nothing is said.")
    ] = "",
    tlp: Annotated[
        str,
        typer.Option(
            "--tlp", metavar="LABEL", help="Marking of what has none: clear … red; amber where nothing is said."
        ),
    ] = "",
    confidence: Annotated[
        int, typer.Option("--confidence", min=1, max=100, help="How sure is what doesn't say so itself.")
    ] = 70,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Keep nothing; say what would be.")] = False,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is in the audit log.")] = "",
    output: Output = TextOutput.TABLE,
) -> None:
    """Import a STIX 2.1 bundle, or MISP events and feeds."""
    marking = parse_tlp(tlp)
    named = source or _source_of(file)
    if file != "-" and not Path(file).exists():
        raise typer.BadParameter(f"{file}: no such file or folder", param_hint="FILE")
    summaries: list[pb.ImportSummary] = []
    with link.client() as client:
        for data in _opened(file):
            with data as opened:
                begin = opened.peek(GUESS_BYTES)
                summaries.append(
                    client.import_facts(
                        opened,
                        named,
                        format=(format or _guessed(begin)).value,
                        tlp=marking,
                        confidence=confidence,
                        dry_run=dry_run,
                        reason=reason,
                    )
                )
    _show(summaries, named, dry_run=dry_run, output=output)
    if any(summary.refused_count for summary in summaries):
        raise typer.Exit(ExitCode.REJECTED)


def export(
    link: Link,
    vertices: Annotated[
        list[str],
        typer.Argument(metavar="VERTEX…", help="TYPE:VALUE, an id, or a token.", show_default=False),
    ],
    *,
    depth: Annotated[int, typer.Option("--depth", min=1, max=6, help="Hops between entities.")] = 1,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="Entities at most.")] = 1000,
    tlp: Ceiling = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to; standard output where nothing is said."),
    ] = None,
    reveal_personal: Annotated[
        bool, typer.Option("--reveal-personal", help="Give personal values in plain, and their ids of STIX.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is in the audit log.")] = "",
) -> None:
    """Export entities, their relations and sightings as a STIX 2.1 bundle."""
    for vertex in vertices:
        check_vertex(vertex)
    if reveal_personal and not reason.strip():
        raise typer.BadParameter("say why personal values are given out", param_hint="--reason")
    with link.client() as client, _written(output) as target:
        summary = _write(client, vertices, target, depth, limit, tlp, reveal_personal=reveal_personal, reason=reason)
    told = [
        plural(summary.entity_count, "entity", "entities"),
        plural(summary.relation_count, "relation"),
        plural(summary.sighting_count, "sighting"),
    ]
    note(", ".join(told))
    if summary.personal_count:
        left = plural(summary.personal_count, "personal entity", "personal entities")
        note(f"left out: {left} and {summary.left_out_count:,} relations of left-out entities (--reveal-personal)")
    if summary.truncated:
        warn("there is more than the limits let through: --limit, --depth")


def _write(
    client: Client,
    vertices: Sequence[str],
    target: IO[bytes],
    depth: int,
    limit: int,
    tlp: str,
    *,
    reveal_personal: bool,
    reason: str,
) -> pb.ExportSummary:
    from heimdall.graph.v1 import interchange_service_pb2 as pb

    summary = pb.ExportSummary()
    for piece in client.export_stix(
        *vertices, depth=depth, limit=limit, tlp=parse_tlp(tlp), reveal_personal=reveal_personal, reason=reason
    ):
        target.write(piece.chunk)
        if piece.WhichOneof("message") == "summary":
            summary = piece.summary
    return summary


@contextmanager
def _written(output: Path | None) -> Iterator[IO[bytes]]:
    """Where to write; a file comes to be only when it is whole, and is the caller's alone: it may hold personal values."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
        return
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
            yield target
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def _opened(name: str) -> Iterator[io.BufferedReader]:
    """What is to be imported, in as many calls as it needs."""
    if name == "-":
        yield io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False), GUESS_BYTES)
        return
    path = Path(name)
    if not path.is_dir():
        try:
            yield io.BufferedReader(io.FileIO(path), GUESS_BYTES)
        except OSError as error:
            raise typer.BadParameter(
                f"{name}: {(error.strerror or 'can not be read').lower()}", param_hint="FILE"
            ) from error
        return
    group: list[Path] = []
    held = 0
    for file in _files_of(path):
        file_bytes = file.stat().st_size
        if group and held + file_bytes > CALL_BYTES:
            yield io.BufferedReader(_Joined(group), GUESS_BYTES)
            group, held = [], 0
        group.append(file)
        held += file_bytes
    if not group:
        raise typer.BadParameter(f"{name}: there is nothing to import in it", param_hint="FILE")
    yield io.BufferedReader(_Joined(group), GUESS_BYTES)


def _files_of(folder: Path) -> list[Path]:
    """Of a feed of MISP the files that its manifest names, else all JSON in the folder."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return sorted(folder.glob("*.json"))
    try:
        named = json.loads(manifest.read_bytes())
    except ValueError as error:
        raise typer.BadParameter(f"{manifest}: it isn't JSON", param_hint="FILE") from error
    files = [folder / f"{uuid}.json" for uuid in named if re.fullmatch(r"[0-9A-Fa-f-]{36}", uuid)]
    missing = [file for file in files if not file.is_file()]
    for file in missing[:REFUSED_SHOWN]:
        warn(f"{file.name} is in the manifest and not in the folder")
    return [file for file in files if file.is_file()]


class _Joined(io.RawIOBase):
    """Files one after the other, a blank between two, as one that is read once."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        self._open: BinaryIO | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any buffer
        """The next bytes."""
        while self._open is not None or self._files:
            if self._open is None:
                self._open = self._files.pop(0).open("rb")
            data = self._open.read(len(buffer))
            if not data:
                self._open.close()
                self._open, data = None, b"\n"
            buffer[: len(data)] = data
            return len(data)
        return 0

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None
        super().close()


def _guessed(begin: bytes) -> Interchange:
    stix, misp = _STIX.search(begin), _MISP.search(begin)
    if stix and not (misp and misp.start() < stix.start()):
        return Interchange.STIX
    if misp:
        return Interchange.MISP
    raise typer.BadParameter(
        "neither a bundle of STIX nor an event of MISP begins like this; say which", param_hint="--format"
    )


def _source_of(file: str) -> str:
    stem = re.sub(r"[^a-z0-9._-]+", "-", Path(file).stem.lower()).strip("-._") if file != "-" else ""
    if not stem:
        raise typer.BadParameter("say who says it", param_hint="--source")
    return stem[:128]


def _show(summaries: Sequence[pb.ImportSummary], source: str, *, dry_run: bool, output: TextOutput) -> None:
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json, to_plain

        for summary in summaries:
            print_json(to_plain(summary))
        return
    types: dict[str, int] = {}
    for summary in summaries:
        for one in summary.types:
            types[one.type] = types.get(one.type, 0) + one.object_count
    if types:
        show_table(table(["type", "objects"], [[name, f"{count:,}"] for name, count in types.items()]))
    kept, known, context, refused, read = (
        sum(getattr(summary, name) for summary in summaries)
        for name in ("new_count", "known_count", "context_count", "refused_count", "byte_count")
    )
    note(
        f"{'would keep' if dry_run else 'kept'} {kept:,} new facts by {source}, {known:,} were there; {size(read)}"
        + (f"; {context:,} say nothing that is kept" if context else "")
    )
    for text in dict.fromkeys(text for summary in summaries for text in summary.notices):
        warn(text)
    if refused:
        warn(f"refused {refused:,}")
        for bad in [bad for summary in summaries for bad in summary.refused][:REFUSED_SHOWN]:
            note(f"  {bad.object_id or f'object {bad.object_number}'}: {bad.reason}")
        if refused > REFUSED_SHOWN:
            note("  … and more: --output json tells up to 100")
