"""Elasticsearch's `_bulk`, and the questions that shippers ask before they send to it.

Documents become records; nothing else of Elasticsearch is here. What shippers set up first (templates, lifecycle
policies, pipelines, aliases) is answered as if it were there already, since datasets and retention are Heimdall's own
configuration. `index` and `create` store; `update` and `delete` are refused, item by item.

Source of what they ask, and of how they judge the answers: elastic/beats (libbeat `esleg/eslegclient`, `licenser`,
`idxmgmt`, `template`, `outputs/elasticsearch`; Filebeat's `fileset`), logstash-output-elasticsearch 12.1.6
(`http_client`, its `pool`, `license_checker`, `template_manager`, `ilm`), Fluent Bit 5.1.1 (`plugins/out_es`), Vector
0.58 (`src/sinks/elasticsearch`); recorded: rsyslog's `omelasticsearch`, elasticsearch-py's product check.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Final

import heimdall_server
from heimdall.types.v1.method_policy_pb2 import MethodPolicy
from heimdall_server.decode import documents, oversize
from heimdall_server.domain.decoding import DecodeContext, RowError
from heimdall_server.edge.http import bulk
from heimdall_server.edge.http.messages import JSON_TYPE, Answer, Operation, Refusal, RefusedError, Request
from heimdall_server.edge.http.otlp import INGEST
from heimdall_server.rpc.calls import current_call
from heimdall_server.rpc.foreign import ANY_AUTHENTICATED
from heimdall_server.services.ingest.logic.export import ExportUseCase
from heimdall_server.services.ingest.logic.export_job import Exported

_VERSION: Final = "8.17.0"
"""What shippers are told: they choose the form of their requests by it."""
_PRODUCT: Final = (("x-elastic-product", "Elasticsearch"),)
_COMPATIBLE: Final = "application/vnd.elasticsearch+json"
"""Clients of version 8 ask for it, and expect it back."""
_NAME: Final = "[^/_+.-][^/]*"
_BULK: Final = re.compile(rf"/(?:(?P<index>{_NAME})/(?:_doc/)?)?_bulk/?")
_DATA_TYPES: Final = frozenset(
    {"application/x-ndjson", JSON_TYPE, "application/vnd.elasticsearch+x-ndjson", _COMPATIBLE, ""}
)
_ERROR_TYPES: Final = {
    400: "illegal_argument_exception",
    401: "security_exception",
    403: "security_exception",
    404: "resource_not_found_exception",
    405: "illegal_argument_exception",
    413: "content_too_long_exception",
    415: "media_type_header_exception",
    429: "es_rejected_execution_exception",
    503: "unavailable_shards_exception",
}
_INFO: Final[dict[str, Any]] = {
    "name": "heimdall",
    "cluster_name": "heimdall",
    "cluster_uuid": "heimdallheimdallheimda",
    "version": {
        "number": _VERSION,
        "build_flavor": "default",
        "build_type": "docker",
        "build_hash": heimdall_server.__name__,
        "build_date": "2024-12-11T12:08:05.663969764Z",
        "build_snapshot": False,
        "lucene_version": "9.12.0",
        "minimum_wire_compatibility_version": "7.17.0",
        "minimum_index_compatibility_version": "7.0.0",
    },
    "tagline": "You Know, for Search",
}
_LICENSE: Final[dict[str, Any]] = {
    "license": {
        "status": "active",
        "uid": "00000000-0000-0000-0000-000000000000",
        "type": "basic",
        "issue_date": "2024-01-01T00:00:00.000Z",
        "issue_date_in_millis": 1704067200000,
        "max_nodes": 1000,
        "issued_to": "heimdall",
        "issuer": "elasticsearch",
        "start_date_in_millis": -1,
    }
}
_XPACK: Final[dict[str, Any]] = {
    "build": {"hash": "heimdall", "date": "2024-12-11T12:08:05.663Z"},
    "license": {"uid": _LICENSE["license"]["uid"], "type": "basic", "mode": "basic", "status": "active"},
    "features": {
        "ilm": {"available": True, "enabled": True},
        "data_streams": {"available": True, "enabled": True},
        "security": {"available": True, "enabled": True},
    },
    "tagline": "You know, for X",
}
_HEALTH: Final[dict[str, Any]] = {
    "cluster_name": "heimdall",
    "status": "green",
    "timed_out": False,
    "number_of_nodes": 1,
    "number_of_data_nodes": 1,
    "active_primary_shards": 1,
    "active_shards": 1,
    "relocating_shards": 0,
    "initializing_shards": 0,
    "unassigned_shards": 0,
}
_NODES: Final[dict[str, Any]] = {
    "_nodes": {"total": 1, "successful": 1, "failed": 0},
    "cluster_name": "heimdall",
    "nodes": {"heimdall": {"name": "heimdall", "version": _VERSION, "roles": ["data", "ingest"], "http": {}}},
}
_NO_NODES: Final[dict[str, Any]] = {**_NODES, "nodes": {}}
"""Where nodes are asked for an address or for processors: of none, Logstash and Filebeat's modules miss nothing.

A node without an address would break Logstash's sniffing.
"""
_ASKED: Final = {
    "/": _INFO,
    "/_license": _LICENSE,
    "/_xpack": _XPACK,
    "/_cluster/health": _HEALTH,
    "/_nodes": _NODES,
    "/_nodes/http": _NO_NODES,
    "/_nodes/ingest": _NO_NODES,
    "/_nodes/_local": _NODES,
}
_SET_UP: Final = re.compile(
    r"/(?:_ilm/policy|_data_stream|_index_template|_component_template|_template|_ingest/pipeline|_alias"
    rf"|{_NAME}/_alias|{_NAME}/_lifecycle|_data_stream/{_NAME}/_lifecycle)(?:/[^/]+)?/?"
)
"""What a shipper looks for, and makes if it isn't there: it is always there."""
_INDEX: Final = re.compile(rf"/{_NAME}/?")


class ElasticDoor:
    """See the module."""

    name = "elastic"

    def __init__(self, use_case: ExportUseCase) -> None:
        self._use_case = use_case
        any_caller = MethodPolicy(permission=ANY_AUTHENTICATED)
        self._bulk = Operation("bulk", INGEST, self.bulk, takes_body=True)
        self._ask = Operation("ask", any_caller, self._asked)
        self._set_up = Operation("set_up", any_caller, self._is_set_up, takes_body=True)

    def find(self, request: Request) -> Operation | None:
        """See `Door`."""
        path, method = request.path, request.method
        if _BULK.fullmatch(path):
            if method not in ("POST", "PUT"):
                only = "_bulk takes POST and PUT only"
                raise RefusedError(405, only, headers={"allow": "POST, PUT"})
            return self._bulk
        if method in ("GET", "HEAD") and (path.rstrip("/") or "/") in _ASKED:
            return self._ask
        if method in ("GET", "HEAD", "PUT", "POST") and _SET_UP.fullmatch(path):
            return self._set_up
        if method in ("HEAD", "PUT") and _INDEX.fullmatch(path):
            return self._set_up
        return None

    async def bulk(self, request: Request, body: bytes) -> Answer:
        """Take in one `_bulk`.

        Raises:
            RefusedError: Not such a request; nothing of it is stored.
        """
        if request.media_type not in _DATA_TYPES:
            unknown = f"Content-Type header [{request.media_type}] is not supported"
            raise RefusedError(415, unknown)
        found = _BULK.fullmatch(request.path)
        index = (found["index"] if found else None) or ""
        split = await asyncio.to_thread(bulk.split, body, index)
        call = current_call()
        exported = Exported(0)
        if split.documents:
            exported = await self._use_case.export(
                call.principal.uri, call.principal.name, split.documents, deadline_s=call.remaining_s()
            )
        errors = exported.errors
        if len(errors) != exported.rejected_count:
            # A repeat is told how many records were bad, not which: they are looked for again.
            errors = await asyncio.to_thread(_bad_lines, split.documents)
        brief = "filter_path" in request.query
        answer = await asyncio.to_thread(lambda: bulk.answer(split, errors, brief=brief))
        return self._answer(request, 200, answer)

    def refuse(self, request: Request, refusal: Refusal) -> Answer:
        """See `Door`."""
        cause = {"type": _ERROR_TYPES.get(refusal.status, "exception"), "reason": refusal.sentence}
        value = {"error": {"root_cause": [cause], **cause}, "status": refusal.status}
        return self._answer(request, refusal.status, json.dumps(value, separators=(",", ":")).encode())

    async def _asked(self, request: Request, _: bytes) -> Answer:
        value = _ASKED[request.path.rstrip("/") or "/"]
        return self._answer(request, 200, json.dumps(value).encode())

    async def _is_set_up(self, request: Request, _: bytes) -> Answer:
        return self._answer(request, 200, b'{"acknowledged":true}')

    @staticmethod
    def _answer(request: Request, status: int, body: bytes) -> Answer:
        compatible = _COMPATIBLE in request.headers.get("accept", "")
        media_type = f"{_COMPATIBLE};compatible-with=8" if compatible else JSON_TYPE
        return Answer(status, body, media_type, _PRODUCT)


def _bad_lines(lines: bytes) -> list[RowError]:
    return oversize.refuse_oversized(documents.decode([lines], DecodeContext("", "", 0)).decoded).errors
