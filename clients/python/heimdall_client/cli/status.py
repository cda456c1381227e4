"""`heimdall status`: services, stores, journal, projections, what came in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import typer

from heimdall_client.cli.console import count, note, out, size, span, warn
from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from rich.text import Text

    from heimdall.admin.v1 import admin_service_pb2
    from heimdall.types.v1 import position_pb2

_STYLES: Final = {"serving": "green", "running": "green", "degraded": "yellow", "retrying": "yellow", "unknown": "dim"}
_DAY_S: Final = 86400
CERTIFICATE_WARN_S: Final = 14 * _DAY_S


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    more = "Exit code 1 if a part doesn't serve."
    app.command(epilog=examples("heimdall status", "heimdall status -o json | jq .journal", more=more))(status)


@connected
def status(link: Link, *, output: Output = TextOutput.TABLE) -> None:
    """Show how the server is.

    Services, stores, journal, how far each projection is behind, what came in.
    """
    with link.client() as client:
        answer = client.status()
        address = client.connection.address
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json, to_plain

        print_json(to_plain(answer))
    else:
        _show(answer, address)
    if _is_down(answer):
        raise typer.Exit(ExitCode.FAILED)


def position_text(position: position_pb2.Position) -> str:
    """A position as people read it: the offset, by shard where there are several."""
    shards = dict(position.shards)
    if not set(shards) - {0}:
        return count(shards.get(0, 0))
    return " ".join(f"{shard}:{offset:,}" for shard, offset in sorted(shards.items()))


def _is_down(answer: admin_service_pb2.GetStatusResponse) -> bool:
    from heimdall.admin.v1.admin_service_pb2 import HEALTH_NOT_SERVING

    parts = [answer.journal.health, *(s.health for s in answer.services), *(s.health for s in answer.stores)]
    return HEALTH_NOT_SERVING in parts


def _show(answer: admin_service_pb2.GetStatusResponse, address: str) -> None:
    up_s = time.time() - answer.start_time.ToNanoseconds() / 1e9
    out().print(
        f"heimdall {answer.version}   {address}   up {span(up_s)}   memory {size(answer.resident_bytes)}   "
        f"instance {answer.instance_id[:8]}",
        style="bold",
    )
    journal, ingest = answer.journal, answer.ingest
    held = f"{count(journal.record_count)} records in {count(journal.frame_count)} frames"
    rows: list[list[Any]] = [["service", service.name, _health(service.health), ""] for service in answer.services]
    rows += [
        [
            "store",
            f"{store.name} ({store.engine})",
            _health(store.health),
            store.problem or f"{count(store.record_count)} records, {size(store.size_bytes)}",
        ]
        for store in answer.stores
    ]
    rows.append(
        [
            "journal",
            f"position {position_text(journal.head)}",
            _health(journal.health),
            f"{held}, {journal.segment_count} segments, {size(journal.size_bytes)}",
        ]
    )
    for one in answer.projections:
        lag_s = one.lag_duration.ToNanoseconds() / 1e9
        what = "hunts to do" if one.name == "graph_hunts" else "frames behind"
        behind = f"{count(one.lag_frame_count)} {what}, {span(lag_s)}" if one.lag_frame_count else "up to date"
        rows.append(["projection", one.name, _state(one.state), one.problem or behind])
    show_table(table(["part", "name", "state", "detail"], rows, fold="detail"))
    out().print(
        f"ingest   {count(ingest.accepted_count)} records, {count(ingest.rejected_count)} rejected since the start   "
        f"{count(ingest.dead_letter_count)} dead letters   {ingest.stream_count} streams   "
        f"{count(ingest.source_count)} sources   {answer.watch_count} watches"
    )
    for line in answer.notices:
        note(line)
    left_s = answer.certificate_expire_time.ToNanoseconds() / 1e9 - time.time()
    if answer.HasField("certificate_expire_time") and left_s < CERTIFICATE_WARN_S:
        warn(f"the server's certificate ends in {span(left_s)}: `heimdall certs renew` makes a new one")


def _health(value: int) -> Text:
    from heimdall.admin.v1 import admin_service_pb2

    name = admin_service_pb2.Health.Name(admin_service_pb2.Health.ValueType(value)).removeprefix("HEALTH_")
    return _state("unknown" if name == "UNSPECIFIED" else name.lower().replace("_", " "))


def _state(name: str) -> Text:
    from rich.text import Text

    return Text(name.replace("_", " "), _STYLES.get(name, "bold red"))
