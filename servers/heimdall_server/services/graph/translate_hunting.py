"""Hunts, matches and watches of the graph between the wire and the domain."""

from __future__ import annotations

from typing import Final

from google.protobuf.duration_pb2 import Duration

from heimdall.graph.v1 import graph_pb2
from heimdall.graph.v1 import hunting_pb2 as pb
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_hunting import EventKind, Found, Hunt, HuntState, Match, SightingEvent
from heimdall_server.domain.graph_reading import day_text
from heimdall_server.services.graph.model_hunting import HuntPage, MatchPage, Told, WatchAsked
from heimdall_server.services.graph.translate import named_in, time_out

PAGE_SIZE: Final = 100
_NS: Final = 10**9
_STATES: Final = {state: pb.HuntState.Value(f"HUNT_STATE_{state.name}") for state in HuntState}
_FOUND: Final = {found: pb.Match.Found.Value(f"FOUND_{found.name}") for found in Found}
_KINDS_IN: Final = {pb.GraphEventKind.Value(f"GRAPH_EVENT_KIND_{kind.name}"): kind for kind in EventKind}
_TLPS: Final = {tlp: graph_pb2.Tlp.Value(f"TLP_{tlp.name}") for tlp in Tlp}


def watch_in(request: pb.WatchRequest) -> WatchAsked:
    """What somebody wants to be told."""
    bound = pb.WatchRequest()
    bound.CopyFrom(request)
    bound.ClearField("resume_token")
    bound.ClearField("from_oldest")
    return WatchAsked(
        entities=[named_in(entity) for entity in request.entities],
        dumps=list(request.dumps),
        types=list(request.types),
        labels=list(request.labels),
        kinds=frozenset(_KINDS_IN[kind] for kind in request.kinds if kind in _KINDS_IN),
        spelled=bound.SerializeToString(deterministic=True),
        resume_token=request.resume_token,
        from_oldest=request.from_oldest,
    )


def told_out(told: Told) -> pb.WatchResponse:
    """What a watch says."""
    event = told.event
    if event is None:
        progress = pb.WatchResponse.Progress()
        if told.lag_s:
            progress.lag_duration.CopyFrom(Duration(seconds=int(told.lag_s), nanos=int(told.lag_s % 1 * _NS)))
        return pb.WatchResponse(progress=progress, resume_token=told.resume_token)
    match event.what:
        case Match():
            return pb.WatchResponse(match=match_out(event.what), resume_token=told.resume_token)
        case SightingEvent():
            return pb.WatchResponse(sighting=_sighting_out(event.what), resume_token=told.resume_token)
        case Hunt():
            return pb.WatchResponse(hunt=hunt_out(event.what), resume_token=told.resume_token)


def hunts_out(page: HuntPage) -> pb.ListHuntsResponse:
    """A page of hunts."""
    return pb.ListHuntsResponse(hunts=[hunt_out(hunt) for hunt in page.hunts], next_page_token=page.next_token)


def matches_out(page: MatchPage) -> pb.ListMatchesResponse:
    """A page of matches."""
    return pb.ListMatchesResponse(matches=[match_out(match) for match in page.matches], next_page_token=page.next_token)


def hunt_out(hunt: Hunt) -> pb.Hunt:
    """A hunt."""
    out = pb.Hunt(
        dump_id=hunt.dump.hex(),
        dump=hunt.name,
        state=_STATES[hunt.state],
        entity_count=hunt.entity_count,
        match_count=hunt.match_count,
        record_count=hunt.record_count,
        truncated=hunt.truncated,
        actor=hunt.actor,
        problem=hunt.problem,
        update_time=time_out(hunt.update_time_ns),
        tlp=_TLPS[hunt.tlp],
    )
    if hunt.since_ns:
        out.since_time.CopyFrom(time_out(hunt.since_ns))
    if hunt.create_time_ns:
        out.create_time.CopyFrom(time_out(hunt.create_time_ns))
    return out


def match_out(match: Match) -> pb.Match:
    """A match."""
    return pb.Match(
        vertex_id=match.id.hex(),
        type=match.type,
        value=match.value,
        dump_id=match.dump.hex(),
        dump=match.dump_name,
        source=match.source,
        day=day_text(match.day),
        found=_FOUND[match.found],
        tlp=_TLPS[match.tlp],
        count=match.count,
        first_time=time_out(match.first_ns),
        last_time=time_out(match.last_ns),
        find_time=time_out(match.time_ns),
    )


def _sighting_out(seen: SightingEvent) -> pb.WatchedSighting:
    return pb.WatchedSighting(
        vertex_id=seen.id.hex(),
        type=seen.type,
        value=seen.value,
        source=seen.source,
        in_dump=seen.in_dump,
        day=day_text(seen.day),
        tlp=_TLPS[seen.tlp],
        count=seen.count,
        first_time=time_out(seen.first_ns),
        last_time=time_out(seen.last_ns),
        find_time=time_out(seen.time_ns),
    )
