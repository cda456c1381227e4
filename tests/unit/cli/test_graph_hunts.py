"""What `heimdall graph watch` says of events, whatever is in them."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.graph.v1 import hunting_pb2 as pb
from heimdall_client.cli.graph_hunts import _line

AT = Timestamp(seconds=1_767_225_600)


def test_each_kind_of_event_is_one_line_without_control_characters() -> None:
    match = pb.Match(
        type="domain",
        value="evil\x1b[31m.example",
        dump="forum\n",
        source="auth",
        day="2026-01-01",
        count=2,
        find_time=AT,
    )
    sighting = pb.WatchedSighting(
        type="ipv4", vertex_id="ab" * 16, source="forum", in_dump=True, day="2026-01-01", count=1
    )
    hunt = pb.Hunt(dump="forum", state=pb.HUNT_STATE_DONE, entity_count=1, match_count=2, update_time=AT)
    lines = [
        _line(pb.WatchResponse(match=match)),
        _line(pb.WatchResponse(sighting=sighting)),
        _line(pb.WatchResponse(hunt=hunt)),
    ]
    assert not any(character in line for line in lines for character in "\x1b\n")
    assert lines[0].startswith("2026-01-01T00:00:00  match     domain evil")
    assert lines[0].endswith("logged by auth on 2026-01-01, 2 times")
    assert f"ipv4 {'ab' * 16} in dump forum on 2026-01-01, 1 time" in lines[1]
    assert lines[2] == "2026-01-01T00:00:00  hunt      forum done: 1 entity, 2 matches"
