"""Notes, merges and labels on the wire."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heimdall.graph.v1 import curation_service_pb2, graph_pb2
from heimdall.types.v1 import method_policy_pb2
from heimdall_server.domain.graph import Tlp, VertexKind
from heimdall_server.domain.graph_authored import Label, Merge, Note
from heimdall_server.domain.graph_reading import Seen, Vertex, Witnesses
from heimdall_server.services.graph import translate
from heimdall_server.services.graph.curation_servicer import AUDITS_ITSELF
from heimdall_server.services.graph.logic.curating import PERMISSION
from heimdall_server.services.graph.logic.rebuilding import PERMISSION as REBUILD
from heimdall_server.services.graph.model import Described

IDS = st.binary(min_size=16, max_size=16)
TIMES = st.integers(0, 2**63 - 1)


@given(IDS, IDS, st.text(max_size=50), TIMES, TIMES, st.sampled_from(Tlp), st.integers(1, 10**6))
def test_a_note_comes_out_with_the_etag_that_a_change_names(
    note_id: bytes, id_: bytes, body: str, created_ns: int, updated_ns: int, tlp: Tlp, version: int
) -> None:
    body = body.encode("utf-8", "replace").decode()
    note = Note(note_id, id_, body, "anna", created_ns, updated_ns, tlp, version)
    told = translate.note_out(note)
    assert (bytes.fromhex(told.note_id), bytes.fromhex(told.vertex_id)) == (note_id, id_)
    assert (told.text, told.actor, told.etag, translate.tlp_in(told.tlp)) == (body, "anna", note.etag, tlp)
    assert (told.create_time.ToNanoseconds(), told.update_time.ToNanoseconds()) == (created_ns, updated_ns)


@given(IDS, IDS, TIMES, TIMES)
def test_each_merge_of_an_entity_has_an_etag_of_its_own(id_: bytes, into_id: bytes, one_ns: int, other_ns: int) -> None:
    told = [translate.merge_out(Merge(id_, into_id, "anna", time_ns, "why")) for time_ns in (one_ns, other_ns)]
    assert (bytes.fromhex(told[0].vertex_id), bytes.fromhex(told[0].into_vertex_id)) == (id_, into_id)
    assert (told[0].actor, told[0].reason, told[0].create_time.ToNanoseconds()) == ("anna", "why", one_ns)
    assert (told[0].etag == told[1].etag) == (one_ns == other_ns)


def test_a_label_that_several_parts_have_is_told_once() -> None:
    vertex = Vertex(b"a" * 16, VertexKind.ENTITY, "domain", "evil.example", Seen(1, 2, 3, 50, Tlp.GREEN))
    labels = [Label(bytes([one]) * 16, name, "anna", 1) for one, name in ((1, "c2"), (2, "bad"), (3, "c2"))]
    told = translate.described_out(Described(vertex, Witnesses((), 0), labels, ()))
    assert list(told.vertex.labels) == ["bad", "c2"]


def test_what_changes_something_audits_itself_and_asks_for_the_permission_to_curate_or_to_rebuild() -> None:
    methods = curation_service_pb2.DESCRIPTOR.services_by_name["CurationService"].methods
    policies = {method.name: method.GetOptions().Extensions[method_policy_pb2.policy] for method in methods}
    of_operators = {"RebuildGraph", "GetRebuild", "ListRefusedFacts"}
    assert {name for name, policy in policies.items() if policy.audited} == AUDITS_ITSELF
    assert {name for name, policy in policies.items() if policy.permission == REBUILD} == of_operators
    assert {policy.permission for name, policy in policies.items() if name not in of_operators} == {PERMISSION}


def test_no_marking_is_told_from_the_least_strict_one() -> None:
    assert translate.tlp_in(graph_pb2.TLP_UNSPECIFIED) is None
    assert translate.tlp_in(graph_pb2.TLP_CLEAR) is Tlp.CLEAR
