"""Services that aren't ours: what their calls need, since their contracts have no room for our option, and how they join.

OTLP's requests are handed over as bytes: they are decoded into columns, never into messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

from heimdall.types.v1.method_policy_pb2 import MethodPolicy

ANY_AUTHENTICATED: Final = "*authenticated*"
"""Not a permission: every caller whose certificate is accepted may."""

OTLP_LOGS: Final = "opentelemetry.proto.collector.logs.v1.LogsService"
HEALTH: Final = "grpc.health.v1.Health"
REFLECTION_V1: Final = "grpc.reflection.v1.ServerReflection"
REFLECTION_V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"

FOREIGN_POLICIES: Final[Mapping[str, MethodPolicy]] = {
    f"{OTLP_LOGS}/Export": MethodPolicy(permission="ingest.append"),
    f"{HEALTH}/Check": MethodPolicy(permission=ANY_AUTHENTICATED),
    f"{HEALTH}/List": MethodPolicy(permission=ANY_AUTHENTICATED),
    f"{HEALTH}/Watch": MethodPolicy(permission=ANY_AUTHENTICATED),
    f"{REFLECTION_V1}/ServerReflectionInfo": MethodPolicy(permission=ANY_AUTHENTICATED),
    f"{REFLECTION_V1ALPHA}/ServerReflectionInfo": MethodPolicy(permission=ANY_AUTHENTICATED),
}
"""Full method name → policy."""

UNINTERRUPTED: Final = frozenset({HEALTH, REFLECTION_V1, REFLECTION_V1ALPHA})
"""Services that answer while the server drains, and that no one waits for."""

Export = Callable[[bytes, Any], Awaitable[logs_service_pb2.ExportLogsServiceResponse]]
"""Takes the encoded `ExportLogsServiceRequest`, uncompressed, and the servicer's context."""


def otlp_logs_handler(export: Export) -> grpc.GenericRpcHandler:
    """OTLP's LogsService, with requests as bytes."""
    handler: grpc.RpcMethodHandler[bytes, Any] = grpc.unary_unary_rpc_method_handler(
        export, response_serializer=logs_service_pb2.ExportLogsServiceResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler(OTLP_LOGS, {"Export": handler})


def reflection_handlers(services: tuple[str, ...]) -> tuple[grpc.GenericRpcHandler, ...]:
    """Server reflection in both versions; tools ask for v1 first.

    Args:
        services: Full names of what is listed.
    """
    _define_reflection_v1()
    servicer = ReflectionServicer(services)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return tuple(
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        for name in (REFLECTION_V1, REFLECTION_V1ALPHA)
    )


def _define_reflection_v1() -> None:
    # The package ships v1alpha only. v1 is the same but for its package name, so its descriptor is made from it.
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(REFLECTION_V1)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        _rename(file)
        pool.AddSerializedFile(file.SerializeToString())


def _rename(file: descriptor_pb2.FileDescriptorProto) -> None:
    old, new = "grpc.reflection.v1alpha", "grpc.reflection.v1"
    file.name = file.name.replace("v1alpha", "v1")
    file.package = new
    for message in file.message_type:
        for field in message.field:
            if field.HasField("type_name"):
                field.type_name = field.type_name.replace(old, new)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(old, new)
            method.output_type = method.output_type.replace(old, new)
