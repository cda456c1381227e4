"""The interchange service's values between the wire and the domain."""

from __future__ import annotations

from typing import Final

from heimdall.graph.v1 import interchange_service_pb2 as pb
from heimdall_server.domain.graph import Tlp
from heimdall_server.services.graph import translate
from heimdall_server.services.graph.logic.interchange.drafts import Defaults
from heimdall_server.services.graph.logic.interchange.exporting import Exported, ExportOptions
from heimdall_server.services.graph.logic.interchange.importing import (
    NOTICES_TOLD,
    REFUSED_TOLD,
    TYPES_TOLD,
    ImportCounts,
    ImportOptions,
)

CONFIDENCE: Final = 70
"""Of what doesn't say how sure it is."""
ENTITY_COUNT: Final = 1_000
_ID_CHARACTERS: Final = 256


def options_in(options: pb.ImportOptions) -> ImportOptions:
    """What holds for all of an import."""
    tlp = translate.tlp_in(options.tlp)
    defaults = Defaults(Tlp.AMBER if tlp is None else tlp, options.confidence or CONFIDENCE)
    return ImportOptions(options.source, defaults, options.dry_run, options.reason)


def progress_out(counts: ImportCounts) -> pb.ImportProgress:
    """How far an import is."""
    return pb.ImportProgress(
        byte_count=counts.byte_count,
        object_count=counts.object_count,
        new_count=counts.new_count,
        refused_count=counts.refused_count,
    )


def summary_out(counts: ImportCounts) -> pb.ImportSummary:
    """What became of it."""
    return pb.ImportSummary(
        byte_count=counts.byte_count,
        object_count=counts.object_count,
        types=[
            pb.ImportSummary.TypeCount(type=type_, object_count=count)
            for type_, count in counts.types.most_common(TYPES_TOLD)
        ],
        new_count=counts.new_count,
        known_count=counts.known_count,
        context_count=counts.context_count,
        refused_count=counts.refused_count,
        refused=[
            pb.RefusedObject(object_id=one.ref[:_ID_CHARACTERS], object_number=one.number, reason=one.reason)
            for one in counts.refused[:REFUSED_TOLD]
        ],
        notices=counts.notices[:NOTICES_TOLD],
    )


def export_in(request: pb.ExportStixRequest) -> ExportOptions:
    """What to give out."""
    return ExportOptions(
        starts=[translate.named_in(start) for start in request.starts],
        depth_max=request.depth_max or 1,
        entity_count_max=request.entity_count_max or ENTITY_COUNT,
        reveal_personal=request.reveal_personal,
        reason=request.reason,
    )


def exported_out(exported: Exported) -> pb.ExportSummary:
    """What an export holds."""
    return pb.ExportSummary(
        entity_count=exported.entity_count,
        relation_count=exported.relation_count,
        sighting_count=exported.sighting_count,
        personal_count=exported.personal_count,
        left_out_count=exported.left_out_count,
        truncated=exported.truncated,
    )
