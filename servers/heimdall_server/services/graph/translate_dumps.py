"""Profiles and comparisons of dumps between the wire and the domain."""

from __future__ import annotations

from typing import Final

from heimdall.graph.v1 import dumps_pb2 as pb
from heimdall_server.domain.graph_dumps import DescribedDump, DumpField, FieldMatch, MatchMethod
from heimdall_server.domain.graph_profiles import SKETCH_SIZE
from heimdall_server.services.graph.model_dumps import MatchedDumps

MATCH_COUNT: Final = 1_000
_TYPES_TOLD: Final = 8
"""Of a field: a body of text may hold any."""
_METHODS: Final = {
    MatchMethod.BY_SIZE: pb.MatchDumpsRequest.METHOD_UNSPECIFIED,
    MatchMethod.EXACT: pb.MatchDumpsRequest.METHOD_EXACT,
    MatchMethod.ESTIMATED: pb.MatchDumpsRequest.METHOD_ESTIMATED,
}
_METHODS_IN: Final = {number: method for method, number in _METHODS.items()}


def method_in(method: pb.MatchDumpsRequest.Method.ValueType) -> MatchMethod:
    """How values are compared."""
    return _METHODS_IN.get(method, MatchMethod.BY_SIZE)


def profile_out(described: DescribedDump) -> pb.DumpProfile:
    """A dump's profile, or a field's."""
    return pb.DumpProfile(
        row_count=described.row_count,
        fields=[_field_out(one, described.row_count) for one in described.fields],
        field_count=described.field_count,
    )


def matched_out(matched: MatchedDumps) -> pb.MatchDumpsResponse:
    """What two dumps share."""
    return pb.MatchDumpsResponse(
        matches=[_match_out(one) for one in matched.matches],
        method=_METHODS[matched.method],
        truncated=matched.truncated,
        row_count_a=matched.row_count_a,
        row_count_b=matched.row_count_b,
    )


def _field_out(field: DumpField, row_count: int) -> pb.FieldProfile:
    profile = field.profile
    types = sorted(profile.types.items(), key=lambda item: (-item[1], item[0]))[:_TYPES_TOLD]
    return pb.FieldProfile(
        vertex_id=field.id.hex(),
        name=field.name,
        value_count=profile.value_count,
        null_count=max(0, row_count - profile.value_count),
        distinct_count=profile.sketch.distinct,
        distinct_error=0.0 if profile.sketch.is_exact else 1 / (SKETCH_SIZE - 2) ** 0.5,
        type=profile.type,
        types=[pb.FieldProfile.TypeCount(type=name, value_count=count) for name, count in types],
        characters_min=profile.characters_min,
        characters_max=profile.characters_max,
        number_min=profile.number_min,
        number_max=profile.number_max,
        samples=[text for _, text in profile.samples],
    )


def _match_out(match: FieldMatch) -> pb.MatchDumpsResponse.FieldMatch:
    return pb.MatchDumpsResponse.FieldMatch(
        field_a=match.a.name,
        field_b=match.b.name,
        vertex_id_a=match.a.id.hex(),
        vertex_id_b=match.b.id.hex(),
        distinct_count_a=match.distinct_a,
        distinct_count_b=match.distinct_b,
        shared_count=match.shared,
        containment_a=match.containment_a,
        containment_b=match.containment_b,
        similarity=match.similarity,
        similarity_error=match.similarity_error,
        is_counterpart=match.is_counterpart,
    )
