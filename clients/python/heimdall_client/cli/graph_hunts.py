"""`heimdall graph watch, hunts, hunt, matches`: what dumps hold, found in logs, and what is new in the graph."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from heimdall_client.cli.console import clean, note, plural, span, warn, write_line
from heimdall_client.cli.graph import NAMES, Ceiling, check_vertex, parse_tlp
from heimdall_client.cli.options import Link, Output, Since, TextOutput, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from heimdall.graph.v1 import graph_pb2
    from heimdall.graph.v1 import hunting_pb2 as pb
    from heimdall_client.errors import HeimdallError
    from heimdall_client.graph_calls import Tlp
    from heimdall_client.sync_client import Client

_HUNT: Final = "Needs the permission graph.hunt, and is audited."
SHOWN_MATCHES: Final = 20
"""Of a vertex that is shown."""
Dump = Annotated[str, typer.Argument(metavar="DUMP", help="The dump's name.", show_default=False)]
DumpOption = Annotated[str, typer.Option("--dump", metavar="DUMP", help="Only of this dump.", show_default=False)]


class Kind(StrEnum):
    """What a watch tells."""

    MATCH = "match"
    SIGHTING = "sighting"
    HUNT = "hunt"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command, epilog in (
        (
            watch,
            examples(
                "heimdall graph watch",
                "heimdall graph watch --dump forum-2026-03 --type ip --output json",
                "heimdall graph watch ip:203.0.113.7 --kind sighting",
                more="Matches of what dumps hold with what logs say, new sightings of entities that have a label or that are named here, how "
                f"hunts go on. It goes on by itself after a break; Ctrl-C ends it. {NAMES}",
            ),
        ),
        (hunts, examples("heimdall graph hunts", "heimdall graph hunts --dump forum-2026-03 -o json")),
        (
            hunt,
            examples(
                "heimdall graph hunt forum-2026-03",
                "heimdall graph hunt forum-2026-03 --since 90d",
                "heimdall graph hunt forum-2026-03 --cancel",
                more=f"What a dump brings is hunted for by itself; this is for dumps that came before there were hunts, and for going back further. {_HUNT}",
            ),
        ),
        (
            matches,
            examples(
                "heimdall graph matches --dump forum-2026-03", "heimdall graph matches domain:evil.example", more=NAMES
            ),
        ),
    ):
        app.command(epilog=epilog)(connected(command))


def watch(
    link: Link,
    entity: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VERTEX]...", help="Only about these entities.", show_default=False),
    ] = None,
    *,
    dump: Annotated[list[str] | None, typer.Option("--dump", metavar="DUMP", help="Only about this dump.")] = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only about entities of this type.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="LABEL", help="Only about entities with this label.")
    ] = None,
    kind: Annotated[list[Kind] | None, typer.Option("--kind", help="Only this kind of event.")] = None,
    oldest: Annotated[bool, typer.Option("--oldest", help="Begin with the oldest event that is kept.")] = False,
    tlp: Ceiling = "",
    output: Output = TextOutput.TABLE,
) -> None:
    """Follow what is new in the graph: matches, sightings, hunts."""
    from heimdall_client.cli.plain import print_json, to_plain

    names = [check_vertex(one) for one in entity or ()]
    with link.client() as client:
        events = client.watch_graph(
            *names,
            dumps=dump or (),
            types=type_ or (),
            labels=label or (),
            kinds=[one.value for one in kind or ()],
            tlp=parse_tlp(tlp),
            from_oldest=oldest,
            on_retry=_tell_break,
        )
        for event in events:
            if event.WhichOneof("event") == "progress":
                lag_s = event.progress.lag_duration.ToNanoseconds() / 1e9
                if lag_s:
                    warn(f"{span(lag_s)} behind what is new")
                continue
            if output is TextOutput.JSON:
                plain = to_plain(event)
                del plain["resume_token"]
                print_json(plain)
            else:
                write_line(_line(event))
            sys.stdout.flush()


def hunts(
    link: Link,
    *,
    dump: DumpOption = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="Hunts at most.")] = 50,
    output: Output = TextOutput.TABLE,
) -> None:
    """List hunts, the newest first: how far they are, what they found."""
    with link.client() as client:
        found = client.hunts(dump, limit=limit)
    _show_hunts(found, output)
    if output is TextOutput.TABLE:
        note(plural(len(found), "hunt"))


def hunt(
    link: Link,
    dump: Dump,
    *,
    since: Since = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="End it instead.")] = False,
    output: Output = TextOutput.TABLE,
) -> None:
    """Hunt for all that a dump holds, in logs from --since on."""
    if cancel and since is not None:
        raise typer.BadParameter("it is for a new hunt, not for --cancel", param_hint="--since")
    with link.client() as client:
        if cancel:
            found, said = client.cancel_hunt(dump), "it does no more; `heimdall graph hunt` starts it again"
        else:
            answer = client.start_hunt(dump, since=since)
            found = answer.hunt
            said = "queued" if answer.started else "one that goes back as far is under way already"
    _show_hunts([found], output)
    if output is TextOutput.TABLE:
        note(said)


def matches(
    link: Link,
    entity: Annotated[
        str,
        typer.Argument(metavar="[VERTEX]", help="Only of this entity.", show_default=False),
    ] = "",
    *,
    dump: DumpOption = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most so many.")] = 100,
    tlp: Ceiling = "",
    output: Output = TextOutput.TABLE,
) -> None:
    """List entities of dumps that logs have as well, what was found last first."""
    name = check_vertex(entity) if entity else None
    with link.client() as client:
        found = client.matches(name, dump=dump, tlp=parse_tlp(tlp), limit=limit)
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json, to_plain

        for one in found:
            print_json(to_plain(one))
        return
    show_matches(found)
    note(plural(len(found), "match", "matches") + (", perhaps more: --limit" if len(found) == limit else ""))


def matches_of(client: Client, vertex: graph_pb2.Vertex, tlp: Tlp = "") -> list[pb.Match]:
    """The newest matches of a dump or an entity that is shown."""
    from heimdall.graph.v1 import graph_pb2

    if vertex.kind == graph_pb2.KIND_DUMP:
        return client.matches(dump=vertex.value, limit=SHOWN_MATCHES, tlp=tlp)
    return (
        client.matches(vertex.vertex_id, limit=SHOWN_MATCHES, tlp=tlp) if vertex.kind == graph_pb2.KIND_ENTITY else []
    )


def show_matches(found: Sequence[pb.Match]) -> None:
    """A table of matches; nothing where there are none."""
    from heimdall.graph.v1 import graph_pb2
    from heimdall_client.cli.plain import enum_name, to_text

    rows = [
        [
            one.type,
            one.value or one.vertex_id,
            one.dump,
            one.source,
            one.day,
            one.count,
            to_text(one.last_time)[11:19],
            enum_name(one.DESCRIPTOR.fields_by_name["found"].enum_type, one.found),
            enum_name(graph_pb2.Tlp.DESCRIPTOR, one.tlp).replace("_", "+"),
        ]
        for one in found
    ]
    if rows:
        columns = ["type", "value", "dump", "logged by", "day", "count", "last", "found in", "tlp"]
        show_table(table(columns, rows, fold="value"))


def _show_hunts(found: Sequence[pb.Hunt], output: TextOutput) -> None:
    from heimdall.graph.v1 import hunting_pb2 as pb
    from heimdall_client.cli.plain import enum_name, print_json, to_plain, to_text

    if output is TextOutput.JSON:
        for one in found:
            print_json(to_plain(one))
        return
    rows = [
        [
            one.dump,
            enum_name(pb.HuntState.DESCRIPTOR, one.state),
            one.entity_count,
            one.match_count,
            one.record_count,
            to_text(one.update_time)[:19],
            one.problem or ("more than is kept" if one.truncated else ""),
        ]
        for one in found
    ]
    if rows:
        columns = ["dump", "state", "entities", "matches", "records read", "last worked", "remark"]
        show_table(table(columns, rows, fold="remark"))


def _line(event: pb.WatchResponse) -> str:
    from heimdall.graph.v1 import hunting_pb2 as pb
    from heimdall_client.cli.plain import enum_name, to_text

    match event.WhichOneof("event"):
        case "match":
            one = event.match
            what = f"{one.type} {one.value or one.vertex_id} of {one.dump}, logged by {one.source} on {one.day}"
            return clean(f"{to_text(one.find_time)[:19]}  match     {what}, {plural(one.count, 'time')}")
        case "sighting":
            seen = event.sighting
            where = f"in dump {seen.source}" if seen.in_dump else f"by {seen.source}"
            what = f"{seen.type} {seen.value or seen.vertex_id} {where} on {seen.day}, {plural(seen.count, 'time')}"
            return clean(f"{to_text(seen.find_time)[:19]}  sighting  {what}")
        case _:
            one_hunt = event.hunt
            state = enum_name(pb.HuntState.DESCRIPTOR, one_hunt.state)
            counts = f"{plural(one_hunt.entity_count, 'entity', 'entities')}, {plural(one_hunt.match_count, 'match', 'matches')}"
            return clean(f"{to_text(one_hunt.update_time)[:19]}  hunt      {one_hunt.dump} {state}: {counts}")


def _tell_break(error: HeimdallError, delay_s: float) -> None:
    note(f"interrupted: {str(error).splitlines()[0]}; trying again in {span(delay_s)}")
